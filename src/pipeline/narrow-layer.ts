import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { addProducts, principalComponents } from '../model/components.ts';
import { blockSequences, embedAll, textFormat } from '../model/embedder.ts';
import { vectorLength } from '../model/head.ts';
import type { Model } from '../model/model.ts';
import { towerFingerprint } from '../retrieval/ensure-index.ts';
import { UserError } from '../system/errors.ts';
import { progress } from '../system/progress.ts';
import { pause } from '../system/stop.ts';
import { readSafetensors, writeSafetensors } from '../weights/safetensors.ts';

/** The last dense layer of the retriever's towers, which makes the vectors of `model.width` numbers. */
export interface NarrowLayer {
  /** Names of its kernels, and of all its parameters. */
  kernels: string[];
  names: string[];
  /** The kernel, [H, width] row-major: the first principal components of the blocks' vectors. */
  values: Float32Array;
}

/** Most blocks whose vectors are looked at, evenly spread over the corpus: docs/encoders.md says what more would give. */
const SAMPLED_BLOCKS = 4000;
const BLOCKS_AT_ONCE = 256;

/**
 * First values of the layer of `model.width`. They are kept in the file `path` with the SHA-256 of the encoder's weights,
 * and made again only for another encoder or width. Other documents do not change them: that would change the vectors of all
 * blocks, and a query tower that was fine-tuned could not be compared with them any more.
 * @param model whose retriever has its first values, all but those of this layer
 * @param missing what to do where the file has no such values; undefined: make them
 */
export async function narrowLayer(
  path: string,
  model: Model,
  corpus: Corpus,
  config: Config,
  missing?: string,
): Promise<NarrowLayer> {
  const { dense } = config.model;
  const wide: Model = { ...model, embedder: { ...model.embedder, dense } };
  const [H, width] = [vectorLength(wide.embedder), vectorLength(model.embedder)];
  const weightsSha256 = await towerFingerprint(wide);
  let values = readComponents(path, weightsSha256, H, width);
  if (!values) {
    if (missing !== undefined)
      throw new UserError(
        `${path}: ${existsSync(path) ? 'holds the principal components of another encoder or model.width' : 'no such file, which holds the principal components for model.width'}; ${missing}`,
      );
    values = await componentsOf(wide, corpus, config, width);
    const tensor = { name: COMPONENTS, shape: [H, width], data: values };
    await writeSafetensors(path, [tensor], { weightsSha256, corpusSha256: corpus.sha256 });
  }
  const layer = `dense.${dense?.length ?? 0}.`;
  const towers = [...new Set([model.queryTower, model.documentTower])];
  return {
    kernels: towers.map((tower) => `${tower}${layer}kernel`),
    names: towers.flatMap((tower) => ['kernel', 'bias'].map((leaf) => `${tower}${layer}${leaf}`)),
    values,
  };
}

const COMPONENTS = 'components';

/** The components in a file; undefined if there is none, or only those of other weights or of another width. */
function readComponents(path: string, weightsSha256: string, H: number, width: number) {
  if (!existsSync(path)) return undefined;
  const { tensors, metadata, close } = readSafetensors(path);
  try {
    const stored = tensors.get(COMPONENTS);
    if (metadata.weightsSha256 !== weightsSha256 || stored?.shape.join() !== [H, width].join())
      return undefined;
    const values = stored.read();
    if (values.every(Number.isFinite)) return values;
    throw new UserError(`${path}: holds values that are not finite; remove the file`);
  } finally {
    close();
  }
}

/** The components of the vectors of a sample of blocks, by the document tower. */
async function componentsOf(
  model: Model,
  corpus: Corpus,
  { text, index }: Config,
  width: number,
): Promise<Float32Array> {
  const H = vectorLength(model.embedder);
  const format = textFormat(corpus.tokenizer, model.embedder);
  const n = Math.min(corpus.blocks, SAMPLED_BLOCKS);
  const sums = new Float64Array(H * H);
  const bar = progress('components', n, { unit: 'blocks' });
  try {
    for (let at = 0; at < n; at += BLOCKS_AT_ONCE) {
      const blocks = Array.from({ length: Math.min(BLOCKS_AT_ONCE, n - at) }, (_, i) => {
        const block = Math.floor(((at + i) * corpus.blocks) / n);
        return { title: corpus.titleIds(block), body: corpus.bodyIds(block) };
      });
      const sequences = blockSequences(format, blocks, text.blockTokens);
      const { params, documentTower, embedder } = model;
      addProducts(sums, await embedAll(params, documentTower, embedder, sequences, index.tokensPerBatch), H);
      bar.at(at + blocks.length);
      await pause();
    }
    return principalComponents(sums, H, width);
  } finally {
    bar.end();
  }
}
