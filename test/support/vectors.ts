import { random } from '../../src/random.ts';
import type { BuildInput, BuildOptions } from '../../src/retrieval/write-index.ts';

export const P = 32;
export const OPTIONS: BuildOptions = {
  dimensions: P,
  dtype: 'f32',
  subIndexes: 1,
  m: 16,
  efConstruction: 128,
  efSearch: 128,
  threads: 1,
};
export const CORPUS = 'c'.repeat(64);

/** Rows around 40 centres with different norms, like embeddings; [rows, P]. */
export function clustered(rows: number, seed: number): Float32Array {
  const rng = random(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - rng.float())) * Math.cos(2 * Math.PI * rng.float());
  const centres = Float32Array.from({ length: 40 * P }, normal);
  const out = new Float32Array(rows * P);
  for (let row = 0; row < rows; row++) {
    const centre = rng.int(40) * P;
    const scale = 0.5 + rng.float();
    for (let d = 0; d < P; d++) out[row * P + d] = scale * (centres[centre + d] + 0.5 * normal());
  }
  return out;
}

export function* pieces(floats: Float32Array, rowsAPiece: number): Generator<Float32Array> {
  for (let at = 0; at < floats.length; at += rowsAPiece * P) yield floats.subarray(at, at + rowsAPiece * P);
}

/** The input of an index build with these rows. */
export function input(floats: Float32Array, more: Partial<BuildInput> = {}): BuildInput {
  return {
    embeddings: (first) => pieces(floats.subarray(first * P), 100),
    rows: floats.length / P,
    corpusSha256: CORPUS,
    weightsSha256: 'e'.repeat(64),
    encoding: 'test',
    step: 7,
    blockHash: (block) => BigInt(block) << 32n,
    ...more,
  };
}
