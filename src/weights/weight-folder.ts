import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { shown, UserError } from '../system/errors.ts';
import { inside, readJson } from '../system/files.ts';
import { readSafetensors } from './safetensors.ts';
import { readTensorBundle } from './tensor-bundle.ts';
import { hubTensors } from './tensorflow-names.ts';
import type { StoredTensor, TensorFile } from './tensors.ts';
import { readTorchFile } from './torch-file.ts';

/** Weights of a model folder under Hugging Face's names, and the file that messages name. */
export interface Weights extends TensorFile {
  path: string;
}

/** The reader for each ending of a file of weights. */
const READERS: [string, (path: string) => TensorFile][] = [
  ['.safetensors', readSafetensors],
  ['.bin', readTorchFile],
];

/**
 * Opens the weights in a model folder: those of Hugging Face in one file or several (model.safetensors,
 * pytorch_model.bin), or a checkpoint of TensorFlow (bert_model.ckpt, a module of TensorFlow Hub).
 * `UserError` if there are none.
 */
export function openWeights(folder: string): Weights {
  for (const name of ['model.safetensors', 'pytorch_model.bin']) {
    const path = join(folder, name);
    if (existsSync(path)) return { path, ...open(path) };
    const index = `${path}.index.json`;
    if (existsSync(index)) return { path: index, ...openParts(folder, index) };
  }
  const path = checkpointOf(folder);
  if (path !== undefined) {
    const { tensors, close } = readTensorBundle(path);
    return { path, tensors: hubTensors(tensors), close };
  }
  throw new UserError(
    `${join(folder, 'model.safetensors')}: no such file; download it to the folder of config.json, ` +
      'or pytorch_model.bin, or the checkpoint of TensorFlow with its .index and .data files',
  );
}

/** The `.index` file of a folder's checkpoint of TensorFlow; undefined if there is none. */
export function checkpointOf(folder: string): string | undefined {
  const hub = join(folder, 'variables', 'variables.index');
  if (existsSync(hub)) return hub;
  const found = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.index')) : [];
  if (found.length > 1) {
    throw new UserError(
      `${folder}: holds ${found.length} checkpoints of TensorFlow (${found.sort().join(', ')}); move the one to read to a folder of its own`,
    );
  }
  return found.length === 1 ? join(folder, found[0]) : undefined;
}

function open(path: string): TensorFile {
  return READERS.find(([end]) => path.endsWith(end))![1](path);
}

/** A model in several files: the index has the file of each tensor. */
function openParts(folder: string, index: string): TensorFile {
  const again = 'download it again with all the files that it names';
  const json = readJson(index, 'list of weight files', again) as { weight_map?: unknown } | null;
  const map = json?.weight_map;
  if (typeof map !== 'object' || map === null) throw new UserError(`${index}: has no weight_map; ${again}`);
  const files = new Map<string, TensorFile>();
  const close = () => {
    for (const file of files.values()) file.close();
  };
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const [name, part] of Object.entries(map)) {
      if (typeof part !== 'string' || !READERS.some(([end]) => part.endsWith(end))) {
        throw new UserError(
          `${index}: names ${shown(part)} for ${name}, which is not a file of weights; ${again}`,
        );
      }
      const file = files.get(part) ?? open(inside(folder, part));
      files.set(part, file);
      const tensor = file.tensors.get(name);
      if (!tensor) throw new UserError(`${join(folder, part)}: has no tensor ${name}; ${again}`);
      tensors.set(name, tensor);
    }
    return { tensors, close };
  } catch (error) {
    close();
    throw error;
  }
}
