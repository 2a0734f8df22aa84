/**
 * Named entities by a token classifier of Hugging Face; the paper tags them with a BERT trained on CoNLL-2003 (section
 * 3.4). A word has the label of its first word piece, and words of one kind that follow one another are one entity, as in
 * transformers' pipeline with `aggregation_strategy="first"`.
 */
import { createHash } from 'node:crypto';
import type { Range } from '../../datasets/types.ts';
import { UserError } from '../../system/errors.ts';
import { sha256File } from '../../system/files.ts';
import { type Encoding, unusualSettings } from '../../tokenizer/wordpiece.ts';
import { dates } from './dates.ts';
import { type NerFolder, readNerFolder } from './ner-folder.ts';
import { type Network, openNetwork, runtimeName } from './onnx.ts';

export interface Entity extends Range {
  /** The name in the model's labels: `PER`, `ORG`, … */
  kind: string;
}

export interface Tagger {
  /** The named entities of each text, in order, none overlapping. */
  entities(texts: readonly string[]): Promise<Entity[][]>;
}

/** Opens the model in a folder. `UserError` if the folder is not a NER model, or the model does not compute. */
export async function openTagger(dir: string): Promise<Tagger> {
  const folder = readNerFolder(dir);
  const network = await openChecked(folder);
  return {
    async entities(texts) {
      const encodings = texts.map((text) => folder.vocab.encode(text));
      const labels = await labelsOf(encodings, folder, network);
      return encodings.map((encoding, t) => entitiesOf(encoding, labels[t], folder));
    },
  };
}

/** SHA-256 of everything that decides which entities are found: network and weights, vocabulary, labels and runtime. */
export async function taggerIdentity(dir: string): Promise<string> {
  const { network, data, vocab, labels, positions } = readNerFolder(dir);
  const parts = [sha256File(network), vocab.sha256, vocab.lowercase, labels, positions, await runtimeName()];
  const unusual = unusualSettings(vocab);
  if (unusual) parts.push(JSON.stringify(unusual));
  if (data !== undefined) parts.push(sha256File(data));
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

/** Entities, and the dates that touch none: masking only the date of "2008 Summer Olympics" would leave most of the name. */
export function withDates(text: string, entities: readonly Range[]): Range[] {
  const apart = dates(text).filter(
    ({ start, end }) => !entities.some((entity) => entity.start < end && start < entity.end),
  );
  return [...entities, ...apart].sort((a, b) => a.start - b.start);
}

async function openChecked(folder: NerFolder): Promise<Network> {
  const path = folder.network;
  try {
    const network = await openNetwork(path, folder.data);
    // Two sequences at once: a model exported with a fixed shape fails here and not hours later.
    await labelWindows([Int32Array.of(folder.vocab.unk), Int32Array.of(folder.vocab.unk)], folder, network);
    return network;
  } catch (error) {
    if (error instanceof UserError) throw error;
    const [why] = String(error instanceof Error ? error.message : error).split('\n');
    throw new UserError(
      `${path}: cannot compute the labels of config.json (${why.slice(0, 200)}); export the model again with dynamic shapes, and copy model.onnx.data too where there is one`,
    );
  }
}

/** Word pieces labelled in one call, at most; more were no faster. */
const MAX_TOKENS_PER_CALL = 2048;

/**
 * For each text, the label number of every piece. A text longer than the model's positions is labelled in several windows.
 * Windows of one length are computed together, so that nothing is padded and no text's labels depend on other texts.
 */
async function labelsOf(
  encodings: readonly Encoding[],
  folder: NerFolder,
  network: Network,
): Promise<Int32Array[]> {
  const labels = encodings.map(({ ids }) => new Int32Array(ids.length));
  const windows = encodings.flatMap(({ ids }, text) =>
    windowsOf(ids, folder).map(({ start, end }) => ({
      ids: ids.subarray(start, end),
      labels: labels[text].subarray(start, end),
    })),
  );
  windows.sort((a, b) => a.ids.length - b.ids.length);
  for (let first = 0, end = 0; first < windows.length; first = end) {
    const { length } = windows[first].ids;
    const most = Math.max(1, Math.floor(MAX_TOKENS_PER_CALL / (length + 2)));
    while (end < windows.length && end - first < most && windows[end].ids.length === length) end++;
    const some = windows.slice(first, end);
    const found = await labelWindows(
      some.map(({ ids }) => ids),
      folder,
      network,
    );
    some.forEach((window, w) => {
      window.labels.set(found.subarray(w * length, (w + 1) * length));
    });
  }
  return labels;
}

/** Parts of a text that fit the model's positions, split between words unless a single word is longer. */
function windowsOf(ids: Int32Array, { vocab, positions }: NerFolder): Range[] {
  const room = positions - 2;
  const windows: Range[] = [];
  for (let start = 0; start < ids.length; ) {
    let end = Math.min(ids.length, start + room);
    while (end > start && end < ids.length && vocab.vocabulary[ids[end]].startsWith('##')) end--;
    if (end === start) end = start + room;
    windows.push({ start, end });
    start = end;
  }
  return windows;
}

/** The label numbers of windows of one length, one window after the other. */
async function labelWindows(
  windows: readonly Int32Array[],
  { vocab, labels }: NerFolder,
  network: Network,
): Promise<Int32Array> {
  const B = windows.length;
  const T = windows[0].length + 2; // [CLS] and [SEP]
  const ids = new BigInt64Array(B * T);
  windows.forEach((window, b) => {
    ids[b * T] = BigInt(vocab.cls);
    for (let t = 0; t < T - 2; t++) ids[b * T + 1 + t] = BigInt(window[t]);
    ids[b * T + T - 1] = BigInt(vocab.sep);
  });
  const known: Record<string, BigInt64Array> = {
    input_ids: ids,
    attention_mask: new BigInt64Array(B * T).fill(1n),
    token_type_ids: new BigInt64Array(B * T),
  };
  const inputs = Object.fromEntries(
    network.inputs.map((name) => {
      if (!Object.hasOwn(known, name)) throw new Error(`it needs an unknown input ${name}`);
      return [name, known[name]];
    }),
  );
  const L = labels.length;
  const { logits, shape } = await network.run(inputs, [B, T]); // [B, T, L]
  if (shape.join() !== [B, T, L].join()) {
    throw new Error(`the logits have the shape [${shape}], not [${[B, T, L]}]`);
  }
  const best = new Int32Array(B * (T - 2));
  for (let b = 0; b < B; b++) {
    for (let t = 0; t < T - 2; t++) best[b * (T - 2) + t] = largest(logits, (b * T + 1 + t) * L, L);
  }
  return best;
}

/** Index, from `at`, of the largest of `count` values; the first of equal ones. */
function largest(values: Float32Array, at: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count; i++) if (values[at + i] > values[at + best]) best = i;
  return best;
}

function entitiesOf({ ids, starts, ends }: Encoding, numbers: Int32Array, folder: NerFolder): Entity[] {
  const { vocab, labels } = folder;
  const entities: Entity[] = [];
  let last = 'O'; // kind of the word before
  for (let first = 0, end = 0; first < ids.length; first = end) {
    end = first + 1;
    while (end < ids.length && vocab.vocabulary[ids[end]].startsWith('##')) end++;
    const { starts: startsEntity, kind } = readLabel(labels[numbers[first]]);
    if (kind !== 'O') {
      if (kind === last && !startsEntity) entities[entities.length - 1].end = ends[end - 1];
      else entities.push({ start: starts[first], end: ends[end - 1], kind });
    }
    last = kind;
  }
  return entities;
}

/** `B-PER` starts an entity of the kind PER. `I-PER`, or `PER` alone, continues one if the word before is of that kind. */
export function readLabel(label: string): { starts: boolean; kind: string } {
  const [, prefix, kind] = /^([BI])-(.+)$/s.exec(label) ?? [];
  return kind === undefined ? { starts: false, kind: label } : { starts: prefix === 'B', kind };
}
