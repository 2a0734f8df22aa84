import type { Config } from '../config.ts';

/**
 * The stages that train, in order. Their names are the same in options, folders, results and messages, and all but the last
 * are also the command that runs the stage.
 */
export const STAGES = ['ict-warmup', 'reader-warmup', 'pretrain', 'finetune-qa', 'closed-book'] as const;
export type Stage = (typeof STAGES)[number];

/** The stages that can leave a document tower, and so an index. */
export const RETRIEVER_STAGES = ['ict-warmup', 'pretrain', 'finetune-qa'] as const satisfies readonly Stage[];
/** Where a retriever comes from: a stage, or a sentence encoder in `model.initial` as it was published. */
export type RetrieverSource = RetrieverStage | 'initial';
/** A stage that can leave a document tower, and so an index. */
export type RetrieverStage = (typeof RETRIEVER_STAGES)[number];

/** What a retriever can come from, by the names that `--stage` takes. */
export const RETRIEVER_SOURCES = [
  'initial',
  ...RETRIEVER_STAGES,
] as const satisfies readonly RetrieverSource[];

/** The section of the settings that each stage trains by. */
export const SECTION = {
  'ict-warmup': 'ict',
  'reader-warmup': 'readerWarmup',
  pretrain: 'pretrain',
  'finetune-qa': 'qa',
  'closed-book': 'closedBook',
} as const satisfies Record<Stage, keyof Config>;

/** Stages that swap in new indexes while they train. */
export const REFRESHED_STAGES = ['pretrain', 'finetune-qa'] as const satisfies readonly Stage[];
export type RefreshedStage = (typeof REFRESHED_STAGES)[number];
