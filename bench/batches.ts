import { blockSequences, pairIds, querySequences, type Sequences } from '../src/model/embedder.ts';
import { type Random, random } from '../src/random.ts';

// Batches for the four kinds of work: random word pieces with the lengths of SQuAD's passages and questions, since speed
// depends on lengths, not on words. Both sides of the benchmark use the same batches.

export interface Size {
  name: string;
  layers: number;
  hidden: number;
  heads: number;
  /** Questions or sentences per step, for the three training steps. */
  batch: number;
}

export const SIZES: Size[] = [
  { name: 'tiny', layers: 2, hidden: 128, heads: 4, batch: 8 },
  { name: 'mini', layers: 4, hidden: 256, heads: 4, batch: 8 },
  { name: 'small', layers: 6, hidden: 384, heads: 6, batch: 4 },
];

export const VOCABULARY = 16000;
/** Candidates per sentence in pretraining, including the null document, and blocks read per question. */
const CANDIDATES = 5;
export const READ = 5;
export const RETRIEVED = 200;
/** Blocks in one embedding batch, and examples in an ICT step, both in units of the size's batch. */
const EMBED_BATCHES = 8;
const ICT_BATCHES = 4;
const MASKS = 3;
const SPECIAL = { cls: 2, sep: 3, mask: 4 };
/** Longest sequence for the model of `configs/squad-open.yaml`; none here is truncated. */
const POSITIONS = 256;

/**
 * Word pieces of 26,743 blocks (192 tokens at most), 77,082 sentences and 10,570 questions of SQuAD 1.1, as
 * `configs/squad-open.yaml` prepares them with a vocabulary of 16,000: [share of them, at most this long].
 */
type Lengths = [number, number][];
const BODIES: Lengths = curve([7, 36, 51, 82, 106, 119, 132, 144, 156, 166, 176, 182, 188]);
const SENTENCES: Lengths = curve([2, 13, 16, 20, 24, 27, 31, 35, 40, 46, 57, 62, 62]);
const QUESTIONS: Lengths = curve([4, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 21, 38]);

function curve(lengths: number[]): Lengths {
  const shares = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1];
  return shares.map((share, i) => [share, lengths[i]]);
}

function drawLength(lengths: Lengths, random: Random): number {
  const u = random.float();
  const i = lengths.findIndex(([share]) => share >= u && share > 0);
  const [[from, low], [to, high]] = [lengths[i - 1], lengths[i]];
  return Math.round(low + ((u - from) / (to - from)) * (high - low));
}

export interface Batches {
  embed: Sequences;
  ict: { queries: Sequences; blocks: Sequences };
  pretrain: {
    queries: Sequences;
    /** Distinct documents, the null document first. */
    documents: Sequences;
    /** [B][K] rows of `documents`, 0 first. */
    candidates: number[][];
    /** B*K rows: sentence and document. */
    joint: Sequences;
    /** [B][M] positions of the masks, the same in `queries` and `joint`; `targets`: the pieces they hide. */
    positions: number[][];
    targets: number[][];
  };
  qa: {
    queries: Sequences;
    /** B*R rows: question and block. */
    joint: Sequences;
    /** One right span per question, in its first block: start in the sequence and width. */
    spans: [number, number][];
  };
}

export function makeBatches(size: Size, seed: number): Batches {
  const r = random(seed);
  const piece = () => 10 + r.int(VOCABULARY - 10);
  const text = (lengths: Lengths) => Int32Array.from({ length: drawLength(lengths, r) }, piece);
  const texts = (n: number, lengths: Lengths) => Array.from({ length: n }, () => text(lengths));
  const queries = (list: Int32Array[]) => querySequences(SPECIAL, list, POSITIONS);
  const pairs = (list: [Int32Array, Int32Array][]): Sequences => {
    const both = list.map(([a, b]) => pairIds(SPECIAL, a, b, POSITIONS));
    return { ids: both.map((p) => p.ids), firstSegment: both.map((p) => p.firstSegment) };
  };
  const titled = (list: Int32Array[]) =>
    list.map((body) => ({ title: Int32Array.of(piece(), piece()), body }));
  const blocks = (list: { title: Int32Array; body: Int32Array }[]) =>
    blockSequences(SPECIAL, list, POSITIONS);
  const nothing = new Int32Array(0);
  const B = size.batch;

  const sentences = texts(B, SENTENCES).map((s) =>
    s.length < MASKS ? Int32Array.of(...s, piece(), piece()) : s,
  );
  const positions = sentences.map((s) => {
    const at = r.int(s.length - MASKS + 1);
    return [at + 1, at + 2, at + 3];
  });
  const masked = sentences.map((s, b) =>
    s.map((id, i) => (positions[b].includes(i + 1) ? SPECIAL.mask : id)),
  );
  const bodies = texts(B * (CANDIDATES - 1), BODIES);
  const candidates = masked.map((_, b) => [
    0,
    ...Array.from({ length: CANDIDATES - 1 }, (_, k) => 1 + b * (CANDIDATES - 1) + k),
  ]);
  const documents = blocks([{ title: nothing, body: nothing }, ...titled(bodies)]);
  const questions = texts(B, QUESTIONS);
  const read = texts(B * READ, BODIES);
  return {
    embed: blocks(titled(texts(EMBED_BATCHES * B, BODIES))),
    ict: {
      queries: queries(texts(ICT_BATCHES * B, SENTENCES)),
      blocks: blocks(titled(texts(ICT_BATCHES * B, BODIES))),
    },
    pretrain: {
      queries: queries(masked),
      documents,
      candidates,
      joint: pairs(
        candidates.flatMap((row, b) =>
          row.map((k): [Int32Array, Int32Array] => [masked[b], k === 0 ? nothing : bodies[k - 1]]),
        ),
      ),
      positions,
      targets: positions.map((row) => row.map(piece)),
    },
    qa: {
      queries: queries(questions),
      joint: pairs(
        questions.flatMap((q, b) =>
          read.slice(b * READ, (b + 1) * READ).map((z): [Int32Array, Int32Array] => [q, z]),
        ),
      ),
      spans: questions.map((q, b) => [q.length + 2, Math.min(2, read[b * READ].length)]),
    },
  };
}
