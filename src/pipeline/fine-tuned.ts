import type { Corpus } from '../corpus/store/reader.ts';
import { embedderShapes } from '../model/embedder.ts';
import { disposeModel, type Model, retrieverShapes } from '../model/model.ts';
import type { SearchIndex } from '../retrieval/search.ts';
import type { RetrieverSource } from '../run/stages.ts';
import { qaShapes } from '../train/finetune-qa.ts';
import { matchingIndex, newestRetriever } from './build-index.ts';
import { type Context, emptyModel, hasWeights, stageWeights } from './context.ts';

/** The models of a fine-tuned run, and the stage whose document tower it searches with. */
export interface FineTuned {
  /** Query tower and reader. */
  model: Model;
  /** Its document tower makes the index; `model` itself if fine-tuning trained that tower. */
  embedder: Model;
  stage: RetrieverSource;
}

/**
 * The fine-tuned model with the document tower that it searches with: its own if fine-tuning trained it, otherwise that of
 * the newest retriever.
 */
export async function fineTunedModels(context: Context, corpus: Corpus): Promise<FineTuned> {
  const stage = newestRetriever(context);
  const model = emptyModel(context, corpus);
  const embedder = stage === 'finetune-qa' ? model : emptyModel(context, corpus);
  try {
    await stageWeights(context, 'finetune-qa', corpus, model, qaShapes(model, stage === 'finetune-qa'));
    if (embedder !== model) {
      const shapes = embedderShapes(embedder.documentTower, embedder.embedder);
      await stageWeights(context, stage, corpus, embedder, shapes);
    }
    return { model, embedder, stage };
  } catch (error) {
    disposeModel(model);
    disposeModel(embedder);
    throw error;
  }
}

/**
 * The fine-tuned model with the index of its document tower, also where another index has become the run's current one
 * since (`eval recall --stage ict-warmup` makes its own).
 */
export async function fineTuned(
  context: Context,
  corpus: Corpus,
): Promise<{ model: Model; index: SearchIndex }> {
  const { model, embedder, stage } = await fineTunedModels(context, corpus);
  const index = await matchingIndex(context, stage, embedder, corpus);
  if (embedder !== model) disposeModel(embedder);
  return { model, index };
}

/** A run's newest retriever; both are one model unless fine-tuning left the document tower as it was. */
export interface RetrieverModels {
  /** Its query tower embeds questions. */
  query: Model;
  /** Its document tower makes the index. */
  document: Model;
}

/** The models of the run's newest retriever, without an index. */
export async function retrieverModels(context: Context, corpus: Corpus): Promise<RetrieverModels> {
  if (hasWeights(context, 'finetune-qa')) {
    const { model, embedder } = await fineTunedModels(context, corpus);
    return { query: model, document: embedder };
  }
  const model = emptyModel(context, corpus);
  try {
    await stageWeights(context, newestRetriever(context), corpus, model, retrieverShapes(model));
    return { query: model, document: model };
  } catch (error) {
    disposeModel(model);
    throw error;
  }
}

export function disposeRetriever({ query, document }: RetrieverModels): void {
  for (const model of new Set([query, document])) disposeModel(model);
}
