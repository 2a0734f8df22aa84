import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Config } from '../config.ts';
import type { Corpus } from '../corpus/store/reader.ts';
import { embedderShapes } from '../model/embedder.ts';
import type { Model } from '../model/model.ts';
import { towerFingerprint } from '../retrieval/ensure-index.ts';
import { errorCode, UserError } from '../system/errors.ts';
import { readJson, sha256File, writeFileAtomic, writeFolderAtomic } from '../system/files.ts';
import { loadWeights, saveWeights, WEIGHTS } from '../weights/checkpoint.ts';

// A snapshot: the document tower at one training step, for the refresher. One folder holds
//   model.safetensors   its weights
//   manifest.json       their step, and the settings and corpus that they belong to; written last

/** What a snapshot belongs to: with other settings or another corpus, the refresher would make an index that the trainer cannot use. */
export interface SnapshotOf {
  /** Training step of the weights. */
  step: number;
  /** See `configSha256`. */
  configSha256: string;
  /** `Corpus.sha256`. */
  corpusSha256: string;
}

export interface SnapshotManifest extends SnapshotOf {
  format: 1;
  /** Length and SHA-256 of the file of weights. */
  bytes: number;
  sha256: string;
  /** `towerFingerprint` of the weights; the index made with them records it. */
  weightsSha256: string;
}

const MANIFEST = 'manifest.json';

const REMEDY = 'the trainer writes a new one at the next refresh';

const schema: z.ZodType<SnapshotManifest> = z.strictObject({
  format: z.literal(1),
  step: z.int().nonnegative(),
  configSha256: z.string(),
  corpusSha256: z.string(),
  bytes: z.int().nonnegative(),
  sha256: z.string(),
  weightsSha256: z.string(),
});

/** SHA-256 of the settings that embedding and indexing depend on. */
export function configSha256({ model, text, index }: Config): string {
  return createHash('sha256')
    .update(JSON.stringify([model, text, index]))
    .digest('hex');
}

/** The training step of a snapshot by the name of its folder; undefined if it is not the name of one. */
export function snapshotStep(name: string): number | undefined {
  const [, step] = /^(?:finetune-qa-)?step-(\d+)$/.exec(name) ?? [];
  return step === undefined ? undefined : Number(step);
}

/** Writes the document tower to the folder `dir`, which appears whole or not at all. */
export async function writeSnapshot(dir: string, model: Model, of: SnapshotOf): Promise<void> {
  const weightsSha256 = await towerFingerprint(model);
  await writeFolderAtomic(dir, async (aside) => {
    const shapes = embedderShapes(model.documentTower, model.embedder);
    const { bytes, sha256 } = await saveWeights(aside, model.params, shapes);
    const manifest: SnapshotManifest = { format: 1, ...of, bytes, sha256, weightsSha256 };
    writeFileAtomic(join(aside, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  });
}

/** Loads the document tower of `model` from the snapshot of `step` in `dir`; a `UserError` if it is damaged or not of this run. */
export function loadSnapshot(
  dir: string,
  step: number,
  model: Model,
  config: Config,
  { sha256: corpusSha256 }: Pick<Corpus, 'sha256'>,
): void {
  readSnapshot(dir, { step, configSha256: configSha256(config), corpusSha256 });
  loadWeights(dir, model, embedderShapes(model.documentTower, model.embedder), REMEDY);
}

/** The manifest of the snapshot in `dir`, after all checks that are possible before loading its weights; else a `UserError`. */
export function readSnapshot(dir: string, of: SnapshotOf): SnapshotManifest {
  const path = join(dir, MANIFEST);
  const parsed = schema.safeParse(readJson(path, 'snapshot manifest', REMEDY));
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0];
    throw new UserError(`${path}: ${field.join('.') || 'manifest'}: ${message}; ${REMEDY}`);
  }
  const manifest = parsed.data;
  if (manifest.step !== of.step) {
    throw new UserError(`${path}: is of step ${manifest.step}, not of step ${of.step}; ${REMEDY}`);
  }
  if (manifest.corpusSha256 !== of.corpusSha256) {
    throw new UserError(
      `${path}: belongs to another corpus than the run's; the corpus was prepared again during training: stop and restart the trainer`,
    );
  }
  if (manifest.configSha256 !== of.configSha256) {
    throw new UserError(
      `${path}: was written with other settings of model, text or index than the run's; they were changed during training: stop and restart the trainer`,
    );
  }
  const weights = join(dir, WEIGHTS);
  const bytes = sizeOf(weights);
  if (bytes !== manifest.bytes) {
    throw new UserError(
      `${weights}: has ${bytes} bytes, not ${manifest.bytes} as its manifest says; ${REMEDY}`,
    );
  }
  if (sha256File(weights) !== manifest.sha256) {
    throw new UserError(`${weights}: is damaged (its SHA-256 is not the manifest's); ${REMEDY}`);
  }
  return manifest;
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw new UserError(`${path}: no such weights; ${REMEDY}`);
    throw error;
  }
}
