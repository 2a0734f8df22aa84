import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs';
import { type Config, loadConfig } from '../../src/config.ts';
import {
  disposeInput,
  type EncoderInput,
  encode,
  encoderInput,
  gatherRows,
  maskedLanguageModel,
} from '../../src/model/bert.ts';
import { embedSequences } from '../../src/model/embedder.ts';
import { vectorLength } from '../../src/model/head.ts';
import { describeModel, type Model, readerTowerShapes, retrieverShapes } from '../../src/model/model.ts';
import { blockTokens, disposeBlockTokens, spanScores } from '../../src/model/reader.ts';
import { type Context, firstWeights } from '../../src/pipeline/context.ts';
import { wordPiece } from '../../src/tokenizer/wordpiece.ts';
import {
  exportEmbedder,
  exportEncoder,
  exportOpenQa,
  exportReader,
  exportScorer,
} from '../../src/weights/export-realm.ts';
import { readHubConfig } from '../../src/weights/import-bert.ts';

// The models of scripts/parity/realm.py: our towers get the same questions as the classes of transformers.

export const KINDS = ['embedder', 'scorer', 'shared-scorer', 'encoder', 'reader', 'openqa'] as const;
export type Kind = (typeof KINDS)[number];

// biome-ignore lint/suspicious/noExplicitAny: each kind has fields of its own; a wrong one fails its test.
function expectedOf(folder: string): any {
  return JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'));
}

/** A configuration of the sizes in `folder`, to start from `initial`. */
export function configFor(folder: string, kind: Kind, initial: string, ...more: string[]): Config {
  const { vocabulary: _, ...sizes } = readHubConfig(folder);
  const { max_span_width } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  return loadConfig(undefined, [
    ...Object.entries(sizes).map(([key, value]) => `model.${key}=${value}`),
    `model.maxSpanWidth=${max_span_width}`,
    `model.sharedTowers=${kind !== 'scorer'}`,
    `model.initial=${initial}`,
    ...['text.blockTokens=16', 'text.sentenceTokens=8', 'text.questionTokens=8', 'qa.readerTokens=24'],
    ...more,
  ]);
}

/** A model with the weights that a configuration names. */
export function startedModel(config: Config, vocabulary: number): Model {
  const model = describeModel(config.model, vocabulary);
  firstWeights({ config } as Context, model, [...retrieverShapes(model), ...readerTowerShapes(model)]);
  return model;
}

/** Our outputs for the inputs of a model in `folder`, each next to theirs. */
export function bothOutputs(kind: Kind, model: Model, folder: string): [string, Float32Array, number[]][] {
  const expected = expectedOf(folder);
  const found: [string, Float32Array, number[]][] = [];
  const add = (name: string, ours: tf.Tensor | Float32Array, theirs: number[] = expected[name]) =>
    found.push([name, ours instanceof tf.Tensor ? (ours.dataSync() as Float32Array) : ours, theirs]);
  tf.tidy(() => {
    const { queries, blocks, joint } = expected;
    const query = queries && embedSequences(model.params, model.queryTower, model.embedder, inputOf(queries));
    if (query) add('queryVectors', query);
    if (blocks && kind !== 'encoder') {
      const vectors = embedSequences(model.params, model.documentTower, model.embedder, inputOf(blocks));
      add('vectors', vectors);
      if (query) {
        const [B, P] = query.shape;
        add('scores', tf.matMul(query.reshape([B, 1, P]), vectors.reshape([B, -1, P]), false, true));
      }
    }
    if (kind === 'encoder') {
      const { params, readerTower, reader } = model;
      const input = inputOf(blocks);
      const at = gatherRows(
        input,
        expected.positions.map((p: number) => [p]),
      );
      add(
        'logits',
        maskedLanguageModel(
          params,
          readerTower,
          reader,
          encode(params, readerTower, reader, input, undefined, at),
        ),
      );
    }
    if (joint)
      add(
        'spans',
        spansOf(model, expected),
        expected.spans.map((span: number[]) => span[3]),
      );
  });
  return found;
}

function inputOf({ ids, firstSegment }: { ids: number[][]; firstSegment: number[] }): EncoderInput {
  return encoderInput(
    ids.map((row) => Int32Array.from(row)),
    firstSegment,
  );
}

/** Our scores of their spans. */
// biome-ignore lint/suspicious/noExplicitAny: see expectedOf.
function spansOf(model: Model, { joint, lengths, blockStarts, spans }: any): Float32Array {
  const input = inputOf(joint);
  const inner = lengths.map((n: number, r: number) => n - 1 - blockStarts[r]);
  const tokens = blockTokens(input, Int32Array.from(blockStarts), Int32Array.from(inner));
  const scores = spanScores(model.params, model.readerTower, model.reader, input, tokens);
  const [, W, T] = scores.shape;
  const all = scores.dataSync();
  disposeInput(input);
  disposeBlockTokens(tokens);
  return Float32Array.from(
    spans,
    ([r, start, end]: number[]) => all[(r * W + end - start) * T + start - blockStarts[r]],
  );
}

/** A word for each id of the model, and a few texts of these words. */
export function vocabularyOf(size: number) {
  const words = Array.from({ length: size - 5 }, (_, i) => `word${i}`);
  return wordPiece(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', ...words], true);
}

/** Writes a model of a kind for transformers; blocks are those of the folder that it came from. */
export async function exportKind(kind: Kind, model: Model, to: string, from: string): Promise<void> {
  const more = ['pretrain.candidates=3', 'qa.readerBlocks=2', 'qa.retrieverBlocks=2'];
  const run = { vocab: vocabularyOf(model.reader.vocabulary), config: configFor(from, kind, from, ...more) };
  if (kind === 'embedder') return exportEmbedder(to, model, model.documentTower, run);
  if (kind === 'encoder') return exportEncoder(to, model, run);
  if (kind === 'reader') return exportReader(to, model, run);
  if (kind !== 'openqa') return exportScorer(to, model, run);
  const vectors = Float32Array.from(expectedOf(from).blockVectors as number[]);
  const P = vectorLength(model.embedder);
  return exportOpenQa(to, model, run, {
    count: vectors.length / P,
    text: (row) => `word${row} word${row + 1}`,
    vectors: (begin, end) => vectors.slice(begin * P, end * P),
  });
}
