import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Params, Shape } from '../model/bert.ts';
import { fetchValues } from '../model/host-values.ts';
import { type Model, setParam } from '../model/model.ts';
import { UserError } from '../system/errors.ts';
import type { FileDigest } from '../system/files.ts';
import { readSafetensors, writeSafetensors } from './safetensors.ts';

/** Name of the weights in a checkpoint or snapshot folder. */
export const WEIGHTS = 'model.safetensors';

/** Writes the parameters of `shapes` to `dir` atomically. Returns the digest of `writeSafetensors`. */
export async function saveWeights(
  dir: string,
  params: Params,
  shapes: readonly Shape[],
): Promise<FileDigest> {
  return writeSafetensors(
    join(dir, WEIGHTS),
    shapes.map(({ name, shape }) => ({
      name,
      shape,
      data: async () => (await fetchValues(params.get(name)!))[0],
    })),
  );
}

/**
 * Reads the parameters of `shapes` from the weights in `dir`.
 * @param remedy what to do if the file is missing or has other sizes
 */
export function loadWeights(dir: string, model: Model, shapes: readonly Shape[], remedy: string): void {
  const path = join(dir, WEIGHTS);
  if (!existsSync(path)) throw new UserError(`${path}: no such weights; ${remedy}`);
  const file = readSafetensors(path);
  try {
    for (const { name, shape } of shapes) {
      const stored = file.tensors.get(name);
      if (!stored) throw new UserError(`${path}: has no tensor ${name}; ${remedy}`);
      if (stored.shape.join() !== shape.join()) {
        throw new UserError(
          `${path}: ${name} is [${stored.shape}], but the configuration needs [${shape}]; ${remedy}`,
        );
      }
      const values = stored.read();
      if (!values.every(Number.isFinite))
        throw new UserError(`${path}: ${name} holds values that are not finite; ${remedy}`);
      setParam(model.params, name, shape, values);
    }
  } finally {
    file.close();
  }
}
