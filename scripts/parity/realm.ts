/**
 * Our side of scripts/parity/realm.py: `npx tsx scripts/parity/realm.ts DIR` imports the folders that it made, compares
 * our outputs with theirs, and exports each model to DIR/ours for its `check`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { startEngine } from '../../src/engine.ts';
import { disposeModel } from '../../src/model/model.ts';
import { readHubConfig } from '../../src/weights/import-bert.ts';
import { relativeError } from '../../test/support/model-fixture.ts';
import {
  bothOutputs,
  configFor,
  exportKind,
  KINDS,
  type Kind,
  startedModel,
} from '../../test/support/realm-parity.ts';

const folder = process.argv[2];
const { description } = await startEngine('auto');
console.log(`engine: ${description}`);

/** The formats in the folder, with the kind of model in each. */
const FORMS: [string, Kind][] = [
  ...KINDS.map((kind): [string, Kind] => [kind, kind]),
  ['encoder-parts', 'encoder'],
  ['openqa-parts', 'openqa'],
  ['tensorflow-embedder', 'embedder'],
  ['tensorflow-encoder', 'encoder'],
  ['tensorflow-openqa', 'openqa'],
];

for (const [form, kind] of FORMS) {
  const [from, like] = [join(folder, form), join(folder, kind)];
  if (!existsSync(from)) continue;
  const start = performance.now();
  const model = startedModel(configFor(like, kind, from), readHubConfig(like).vocabulary);
  const seconds = (performance.now() - start) / 1000;
  const errors = bothOutputs(kind, model, like).map(([name, ours, theirs]) => {
    const error = relativeError(ours, theirs);
    if (!(error <= 1e-4)) throw new Error(`${form}: ${name} differs by ${error}`);
    return `${name} ${error.toExponential(1)}`;
  });
  console.log(form.padEnd(20), `read in ${seconds.toFixed(1)} s `, errors.join('  '));
  if (form === kind) await exportKind(kind, model, join(folder, 'ours', kind), like);
  disposeModel(model);
}
