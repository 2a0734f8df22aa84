import * as tf from '@tensorflow/tfjs';
import type { Config } from '../config.ts';
import type { Random } from '../random.ts';
import { bertShapes, initialValues, type Params, type Shape } from './bert.ts';
import { type EmbedderConfig, embedderShapes } from './embedder.ts';
import { denseLayers, projectionOf } from './head.ts';
import { type ReaderConfig, readerShapes } from './reader.ts';

/** All of REALM's parts: the towers of the retriever and the reader, as sizes, name prefixes and parameters. */
export interface Model {
  embedder: EmbedderConfig;
  reader: ReaderConfig;
  /** Prefixes of the tower that embeds queries and of the one that embeds documents; equal if the tower is shared. */
  queryTower: string;
  documentTower: string;
  /** Prefix of the reader's encoder and masked-language-model head. */
  readerTower: string;
  /** Retrieval scores are divided by this. */
  temperature: number;
  params: Params;
}

/** Sizes, prefixes and an empty parameter table; `initialise` or a checkpoint fills it. */
export function describeModel(config: Config['model'], vocabulary: number): Model {
  const { sharedTowers, temperature, initial: _, initialReader: __, width: ___, ...sizes } = config;
  return {
    embedder: { ...sizes, dense: denseLayers(config), projection: projectionOf(config), vocabulary },
    reader: { ...sizes, vocabulary },
    queryTower: sharedTowers ? 'embedder.' : 'queryEmbedder.',
    documentTower: sharedTowers ? 'embedder.' : 'documentEmbedder.',
    readerTower: 'reader.',
    temperature,
    params: new Map(),
  };
}

/** Shapes of the retriever's towers. */
export function retrieverShapes(model: Model): Shape[] {
  const towers = new Set([model.queryTower, model.documentTower]);
  return [...towers].flatMap((p) => embedderShapes(p, model.embedder));
}

/** Whether a parameter is one of the retriever's. */
export function isRetriever(model: Model, name: string): boolean {
  return name.startsWith(model.queryTower) || name.startsWith(model.documentTower);
}

/** Shapes of the reader: encoder with its masked-language-model head, and the span scorer. */
export function readerTowerShapes(model: Model): Shape[] {
  return [...bertShapes(model.readerTower, model.reader, true), ...readerShapes(model.reader)];
}

export function modelShapes(model: Model): Shape[] {
  return [...retrieverShapes(model), ...readerTowerShapes(model)];
}

/** Numbers in all tensors of `shapes`. */
export function countParameters(shapes: readonly Shape[]): number {
  return shapes.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** What pretraining trains: all but the span scorer, which fine-tuning adds. */
export function pretrainedShapes(model: Model): Shape[] {
  return modelShapes(model).filter(({ name }) => !name.startsWith('span.'));
}

/**
 * Gives every tensor of `shapes` its initial values: those `imported` for its tower, under its name without the tower's
 * prefix, if there are any (one BERT initialises every tower, as in the paper's section 3.4), else random values.
 * @returns the names of the tensors with random values
 */
export function initialise(
  model: Model,
  shapes: readonly Shape[],
  random: Random,
  imported: (tower: Tower) => ImportedBert['params'] | undefined = () => undefined,
): string[] {
  const drawn: string[] = [];
  for (const shape of shapes) {
    const { name } = shape;
    const prefix = /^(embedder|queryEmbedder|documentEmbedder|reader)\./.exec(name)?.[0] ?? '';
    const found = imported(TOWERS[prefix])?.get(name.slice(prefix.length));
    if (!found) drawn.push(name);
    setParam(model.params, name, shape.shape, found?.data ?? initialValues(shape, random));
  }
  return drawn;
}

/** The tower of a parameter, by its prefix; the span scorer, which has no prefix, belongs to the reader. */
const TOWERS: Record<string, Tower> = {
  'embedder.': 'both',
  'queryEmbedder.': 'query',
  'documentEmbedder.': 'document',
  'reader.': 'reader',
  '': 'reader',
};

/**
 * Creates or overwrites one parameter. The values are copied: the native engine uses the given array itself, the
 * optimizer changes weights in place, and several towers may start from one array.
 */
export function setParam(params: Params, name: string, shape: number[], values: Float32Array): void {
  tf.tidy(() => {
    const tensor = tf.tensor(values.slice(), shape, 'float32');
    const existing = params.get(name);
    if (existing) existing.assign(tensor);
    else params.set(name, tf.variable(tensor, true));
  });
}

/**
 * A scalar loss and its gradients by parameter name, with respect to the parameters of `shapes` only; parameters that
 * the loss does not touch have no entry. The caller disposes both.
 * @param inputs further variables of the loss, whose gradients come under these names
 */
export function lossGradients(
  model: Model,
  shapes: readonly Shape[],
  loss: () => tf.Scalar,
  inputs: Record<string, tf.Variable> = {},
): { value: tf.Scalar; gradients: tf.NamedTensorMap } {
  const variables = new Map([
    ...shapes.map(({ name }): [string, tf.Variable] => [name, model.params.get(name)!]),
    ...Object.entries(inputs),
  ]);
  const names = new Map([...variables].map(([name, variable]) => [variable.name, name]));
  const { value, grads } = tf.variableGrads(loss, [...variables.values()]);
  return {
    value,
    gradients: Object.fromEntries(
      Object.entries(grads).map(([name, gradient]) => [names.get(name)!, gradient]),
    ),
  };
}

export function disposeModel(model: Model): void {
  tf.dispose([...model.params.values()]);
  model.params.clear();
}

export interface ImportedBert {
  /** By our names without the tower's prefix (`layer.0.output.kernel`); dense kernels [in, out], row-major. */
  params: Map<string, { shape: number[]; data: Float32Array }>;
  /** Tensors of the file that our model does not use, such as BERT's next-sentence head. */
  unused: string[];
}

/** Our towers that a folder of weights can initialise: the query's, the document's, one for both, and the reader's. */
export type Tower = 'query' | 'document' | 'both' | 'reader';
