// npm run bench:wikipedia: 21 million generated passages of 100 words, the size of DPR's Wikipedia, through realm's own commands,
// each as a process of its own: prepare, ict-warmup (a short one: an index needs a trained retriever), vectors and exact index,
// search, removing 1,000 documents and adding 1,000 others, and graphs of as many passages as fit into --graph-minutes. First a small
// part is measured, which tells the hours and the disk. The same command resumes a run that was stopped: a stage that is done is not done
// again, and realm's own stages resume. Everything is removed at the end without --keep.
import {
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import type { Document } from '../src/datasets/types.ts';
import type { IndexManifest } from '../src/retrieval/manifest.ts';
import { UserError } from '../src/system/errors.ts';
import { writeFileAtomic } from '../src/system/files.ts';
import { trainVocabulary } from '../src/tokenizer/train-vocabulary.ts';
import { passages } from './passages.ts';
import { realm, type Took } from './realm-process.ts';

const { values: options } = parseArgs({
  options: {
    passages: { type: 'string', default: '21000000' },
    folder: { type: 'string', default: join(tmpdir(), 'bench-wikipedia') },
    'graph-minutes': { type: 'string', default: '60' },
    keep: { type: 'boolean', default: false },
  },
});
const N = Number(options.passages);
const GRAPH_SECONDS = 60 * Number(options['graph-minutes']);
/** Documents that are removed, and others that are added. */
const CHANGED = 1000;
/** Passages of the two small parts. What a command takes at both gives its start and its time for a passage. */
const [FEW, SOME] = [2000, 50_000];

/** Questions for an exact search. One of graphs, or of few passages, is so fast that it gets them many times. */
const QUESTIONS = 200;
const ABOUT_ADDED = 10;
const ROUNDS = 20;
const K = 10;

/** Rows of one graph. */
const GRAPH_ROWS = 250_000;
/** A row is added to a graph of so many in about 1.5 times the time that it takes in one of 50,000 (docs/data.md has 20,000 and 200,000). */
const GROWTH = 1.5;

/**
 * The encoder of npm run bench:prepare, the smallest in realm, because what is measured is all else: that of the preset world, 2 layers of
 * 128, takes ten times as long. The mean of a text's random vectors tells its words apart from the first step on; BERT's pooler would need a
 * longer training for vectors that differ at all.
 */
const SETTINGS = `data: { documents: documents.jsonl }
text: { vocabulary: vocab.txt, splitting: as-is, questionTokens: 256 }
model: { layers: 1, hidden: 64, heads: 2, intermediate: 256, dropout: 0, positions: 384, pooling: mean, projection: 128, temperature: 11 }
ict: { steps: 200, batch: 64, optimizer: { learningRate: 1.0e-3 } }
index: { kind: exact, threads: ${availableParallelism()} }
`;

/** What each command makes in the folder of a run. */
const MADE: Record<string, string> = {
  prepare: 'corpus',
  'ict-warmup': 'checkpoints',
  'build-index': 'index',
};

const folder = resolve(options.folder);
const STATE = join(folder, 'state.json');
const CONTENTS = ['state.json', 'sample', 'whole'];

/** What a stage has measured. */
interface Row extends Took {
  /** Bytes of what it has made, in the folder of the run. */
  disk: number;
}
interface Question {
  /** The document that it is made from. */
  id: string;
  text: string;
}
/** Documents that are on the disk, with questions about some of them. */
interface Documents extends Row {
  questions: Question[];
}
interface Search extends Row {
  /** Seconds of the command for one question, the first time, when the files are checked, and the second. */
  first: number;
  second: number;
  /** Milliseconds of each further question. */
  each: number;
  /** For each question the documents found. */
  found: string[][];
}
/** What is kept in `STATE`: results by the names of stages, and what stages that are not done have taken. */
interface State {
  passages: number;
  graphSeconds: number;
  done: Record<string, object>;
  spent: Record<string, Took>;
}

let state: State;
try {
  state = openState();
  const processor = cpus()[0]?.model.trim() ?? 'unknown processor';
  console.log(
    `${N.toLocaleString('en')} passages on ${availableParallelism()} cores (${processor}), in ${folder}`,
  );
  console.log('encoder: 1 layer of 64, as in npm run bench:prepare; vectors of 128');
  const plan = await measureSample();
  checkDisk(plan.disk);
  await measureWhole(plan.graphPassages);
  if (options.keep) console.log(`kept: ${folder}`);
  else removeAll();
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(`bench:wikipedia: ${error.message}`);
  process.exitCode = 2;
}

// ---------------------------------------------------------------- what is measured

interface Plan {
  /** Bytes. */
  disk: number;
  graphPassages: number;
}

/** Measures two small parts, and says from them what the whole will take. */
async function measureSample(): Promise<Plan> {
  const dir = join(folder, 'sample');
  const at = (n: number) => `sample of ${n.toLocaleString('en')}`;
  const of = async (n: number) => {
    const documents = await writeDocuments(dir, `${at(n)}: documents`, 0, n);
    const prepare = await command(dir, `${at(n)}: prepare`, prepareArguments(dir));
    const warmup = await command(dir, `${at(n)}: ict-warmup`, ['ict-warmup', '--yes']);
    const build = await command(dir, `${at(n)}: exact index`, ['build-index', '--yes']);
    const search = await ask(dir, `${at(n)}: exact search`, documents, ROUNDS);
    return { documents, prepare, warmup, build, search };
  };
  const a = await of(FEW);
  const b = await of(SOME);
  const graph = await command(dir, `${at(SOME)}: graph`, ['build-index', ...graphSettings(1)]);
  if (existsSync(dir)) rmSync(dir, { recursive: true });

  // Other work on the machine can make the smaller part the slower one.
  const slope = (x: Row, y: Row, passages = SOME - FEW) =>
    Math.max((y.seconds - x.seconds) / passages, y.seconds / SOME / 2);
  const prepare = slope(a.prepare, b.prepare);
  const embed = slope(a.build, b.build, SOME - 2 * FEW); // the second copies the vectors of the first
  const start = a.build.seconds - FEW * embed;
  const graphRow = (GROWTH * Math.max(0, graph.seconds - start)) / SOME;
  const graphPassages = Math.min(N, Math.max(SOME, Math.floor(GRAPH_SECONDS / graphRow)));
  const again = graphPassages < N ? graphPassages : 0;
  const write = b.documents.seconds / SOME;
  const search = Math.max(0, (QUESTIONS * (b.search.each - a.search.each)) / 1000 / (SOME - FEW));
  const parts = {
    documents: N * write,
    prepare: N * prepare,
    'ict-warmup': a.warmup.seconds,
    'vectors and exact index': N * embed,
    search: N * search,
    'changed documents': N * (write + prepare + search),
    graph: again * (write + prepare + search) + graphPassages * (graphRow + search),
  };
  const seconds = Object.values(parts).reduce((sum, part) => sum + part, 0);
  const text = b.documents.disk / SOME;
  const corpus = b.prepare.disk / SOME;
  const vectors = b.build.disk / SOME;
  const links = graph.disk / SOME - vectors;
  // A corpus and an index stay until the next ones are done.
  const disk = Math.max(
    N * (text + 2 * corpus + vectors),
    N * (text + corpus + 2 * vectors),
    graphPassages * (text + corpus + 2 * vectors + links),
  );
  console.log(`\nestimated from ${FEW.toLocaleString('en')} and ${SOME.toLocaleString('en')} passages:`);
  for (const [name, part] of Object.entries(parts))
    console.log(`  ${name.padEnd(26)}${duration(part).padStart(12)}`);
  console.log(
    `  together ${duration(seconds)} for ${N.toLocaleString('en')} passages, ${graphPassages.toLocaleString('en')} of them in graphs`,
  );
  console.log(
    `  disk: ${gb(N * text)} of documents, ${gb(N * corpus)} of corpus, ${gb(N * vectors)} of vectors, ${gb(graphPassages * links)} of graphs; at most ${gb(disk)} at once`,
  );
  return { disk, graphPassages };
}

/** Throws if the disk is too small for what is still to be written. */
function checkDisk(disk: number): void {
  const { bavail, bsize } = statfsSync(folder);
  const missing = disk - sizeOf(folder) - bavail * bsize;
  if (missing > 0)
    throw new UserError(
      `${folder}: ${gb(disk)} are needed and ${gb(missing)} are missing; name a folder on a larger disk with --folder, or fewer --passages`,
    );
}

async function measureWhole(graphPassages: number): Promise<void> {
  const dir = join(folder, 'whole');
  const rows: [string, number, Row][] = [];
  const add = <T extends Row>(name: string, n: number, row: T): T => {
    rows.push([name, n, row]);
    return row;
  };
  const first = add('documents', N, await writeDocuments(dir, 'documents', 0, N));
  add('prepare', N, await command(dir, 'prepare', prepareArguments(dir)));
  add('ict-warmup', 0, await command(dir, 'ict-warmup', ['ict-warmup', '--yes']));
  add('vectors, exact index', N, await command(dir, 'exact index', ['build-index', '--yes']));
  const search = add('exact search', N, await ask(dir, 'exact search', first, 1));

  const second = add('other documents', N, await writeDocuments(dir, 'other documents', CHANGED, N));
  add('prepare again', N, await command(dir, 'prepare again', ['prepare']));
  const changed = await command(dir, 'exact index again', ['build-index', '--yes']);
  add('exact index again', N, changed);
  const after = add('exact search again', N, await ask(dir, 'exact search again', second, 1));

  let questions = second;
  let exact = after;
  if (graphPassages < N) {
    const n = graphPassages;
    questions = add('fewer documents', n, await writeDocuments(dir, 'fewer documents', CHANGED, n));
    add('prepare fewer', n, await command(dir, 'prepare fewer', ['prepare']));
    add('exact index of fewer', n, await command(dir, 'exact index of fewer', ['build-index', '--yes']));
    exact = add('exact search of fewer', n, await ask(dir, 'exact search of fewer', questions, 1));
  }
  const graphs = Math.ceil(graphPassages / GRAPH_ROWS);
  const built = await command(dir, 'graphs', ['build-index', ...graphSettings(graphs)]);
  add(graphs === 1 ? '1 graph' : `${graphs} graphs`, graphPassages, built);
  const graph = add('graph search', graphPassages, await ask(dir, 'graph search', questions, ROUNDS));

  console.log('\nstage                    passages   seconds  a second  peak memory        disk');
  for (const [name, n, { seconds, peak, disk }] of rows) {
    console.log(
      name.padEnd(22),
      (n === 0 ? '' : n.toLocaleString('en')).padStart(10),
      seconds.toFixed(1).padStart(9),
      (n === 0 ? '' : Math.round(n / seconds).toLocaleString('en')).padStart(9),
      (peak === 0 ? '' : `${Math.round(peak / 2 ** 20).toLocaleString('en')} MiB`).padStart(12),
      (disk === 0 ? '' : gb(disk)).padStart(11),
    );
  }
  console.log('\nsearch                 one question, first  second  each further  own passage found');
  const searches: [string, Search, Documents][] = [
    ['exact', search, first],
    ['exact, other documents', after, second],
    ['exact, same as graphs', exact, questions],
    ['graphs', graph, questions],
  ];
  for (const [name, { found, ...took }, { questions: asked }] of searches) {
    const own = asked.filter(({ id }, i) => found[i].includes(id)).length;
    console.log(
      name.padEnd(22),
      `${took.first.toFixed(1)} s`.padStart(19),
      `${took.second.toFixed(1)} s`.padStart(7),
      `${took.each.toFixed(2)} ms`.padStart(13),
      `${own} of ${asked.length}`.padStart(18),
    );
  }
  const { reused } = changed.result as IndexManifest;
  const removed = after.found.flat().filter((id) => Number(id) < CHANGED).length;
  const added = second.questions.filter(({ id }) => Number(id) >= N);
  const foundAdded = added.filter(({ id }) =>
    after.found[second.questions.findIndex((q) => q.id === id)].includes(id),
  );
  console.log(
    `\nafter ${CHANGED.toLocaleString('en')} documents were removed and ${CHANGED.toLocaleString('en')} added: ${reused.toLocaleString('en')} vectors copied, ${removed} removed documents found, ` +
      `${foundAdded.length} of ${added.length} added ones found by their questions`,
  );
  if (removed > 0) throw new Error('documents that were removed are still found');
  const hits = exact.found.map((best, i) => best.filter((id) => graph.found[i].includes(id)).length);
  const { recall10 } = built.result as IndexManifest;
  console.log(
    `recall@${K} of the graphs against exact search: ${(hits.reduce((a, b) => a + b, 0) / (K * hits.length)).toFixed(3)} for ${hits.length} questions, ` +
      `${recall10!.value.toFixed(3)} for ${recall10!.probes} of the blocks`,
  );
}

// ---------------------------------------------------------------- stages

/** Does a stage unless an earlier run has done it, and keeps its result, which includes what stopped attempts have taken. */
async function once<T extends Took>(
  name: string,
  work: (tell: (took: Took) => void) => Promise<T>,
): Promise<T> {
  if (state.done[name]) return state.done[name] as T;
  console.log(`${name} …`);
  const before = state.spent[name] ?? { seconds: 0, peak: 0 };
  const withBefore = ({ seconds, peak }: Took): Took => ({
    seconds: before.seconds + seconds,
    peak: Math.max(before.peak, peak),
  });
  const result = await work((took) => {
    state.spent[name] = withBefore(took);
    saveState();
  });
  const whole = { ...result, ...withBefore(result) };
  state.done[name] = whole;
  delete state.spent[name];
  saveState();
  return whole;
}

/** A command of realm in the run of `dir`. `result`: what it prints. */
function command(dir: string, name: string, args: readonly string[]): Promise<Row & { result: object }> {
  return once(name, async (tell) => {
    const { out, ...took } = await realm([...args, '--run', runOf(dir), '--json'], undefined, tell);
    return { ...took, disk: sizeOf(join(runOf(dir), MADE[args[0]])), result: JSON.parse(out) };
  });
}

function prepareArguments(dir: string): string[] {
  return ['prepare', '--config', join(dir, 'realm.yaml')];
}

function graphSettings(graphs: number): string[] {
  return ['--yes', '--set', 'index.kind=graph', '--set', `index.subIndexes=${graphs}`];
}

/** Asks the questions: one alone, again, and then all of them so many times. */
function ask(dir: string, name: string, { questions }: Documents, rounds: number): Promise<Search> {
  return once(name, async () => {
    const lines = questions.map(({ text }) => `${text}\n`);
    const asking = ['ask', '--retrieve-only', '--top', String(K), '--json', '--run', runOf(dir)];
    const first = await realm(asking, lines[0]);
    const second = await realm(asking, lines[0]);
    const all = await realm(asking, lines.join('').repeat(rounds));
    const found = all.out
      .trim()
      .split('\n')
      .slice(0, questions.length)
      .map((line) => (JSON.parse(line).passages as { document: string }[]).map(({ document }) => document));
    const more = rounds * lines.length - 1;
    return {
      seconds: first.seconds + second.seconds + all.seconds,
      peak: Math.max(first.peak, second.peak, all.peak),
      disk: 0,
      first: first.seconds,
      second: second.seconds,
      each: (1000 * (all.seconds - Math.min(first.seconds, second.seconds))) / more,
      found,
    };
  });
}

/** Writes `n` passages from number `from` on in place of the documents that were there, and settings and vocabulary beside them. */
function writeDocuments(dir: string, name: string, from: number, n: number): Promise<Documents> {
  return once(name, async () => {
    const started = performance.now();
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'realm.yaml'), SETTINGS);
    const vocabulary = join(dir, 'vocab.txt');
    if (!existsSync(vocabulary)) writeFileAtomic(vocabulary, `${(await makeVocabulary()).join('\n')}\n`);
    const path = join(dir, 'documents.jsonl');
    rmSync(path, { force: true }); // the disk need not hold both
    const questions: Question[] = [];
    function* lines() {
      // Some of them about the last documents, those that are added.
      const spread = (count: number, first: number, n: number) =>
        Array.from({ length: count }, (_, q) => first + Math.floor((q * n) / count));
      const asked = new Set([
        ...spread(QUESTIONS - ABOUT_ADDED, 0, n - CHANGED),
        ...spread(ABOUT_ADDED, n - CHANGED, CHANGED),
      ]);
      let i = -from;
      for (const passage of passages(from + n)) {
        if (i >= 0) {
          const written = aboutTitle(passage);
          if (asked.has(i)) questions.push(questionOf(written));
          yield `${JSON.stringify(written)}\n`;
        }
        i++;
      }
    }
    await pipeline(Readable.from(lines()), createWriteStream(`${path}.part`));
    renameSync(`${path}.part`, path);
    return {
      seconds: (performance.now() - started) / 1000,
      peak: 0, // of this process
      disk: statSync(path).size,
      questions,
    };
  });
}

/** A passage mentions the words of its title, so that the encoder has something to learn: every twelfth word becomes one of them. */
function aboutTitle({ id, title, text }: Document): Document {
  const names = title.split(' ');
  const words = text.split(' ').map((word, i) => {
    if (i % 12 !== 5) return word;
    return names[Math.floor(i / 12) % names.length] + (/[.,]$/.exec(word)?.[0] ?? '');
  });
  return { id, title, text: words.join(' ') };
}

/**
 * The whole passage: so short a training finds no passage of millions by some of its words, and this tells whether each is where a
 * search finds it.
 */
function questionOf({ id, title, text }: Document): Question {
  return { id, text: `${title} ${text}` };
}

/** A vocabulary of BERT's size, where the words are as many. */
function makeVocabulary(): Promise<string[]> {
  const texts = Array.from(passages(5000), ({ title, text }) => `${title} ${text}`);
  return trainVocabulary(texts, 30_000, true);
}

// ---------------------------------------------------------------- files

function runOf(dir: string): string {
  return join(dir, 'run');
}

function openState(): State {
  if (!(N >= SOME)) throw new UserError(`--passages ${options.passages}: give at least ${SOME}`);
  mkdirSync(folder, { recursive: true });
  const started: State = { passages: N, graphSeconds: GRAPH_SECONDS, done: {}, spent: {} };
  if (!existsSync(STATE)) {
    const [other] = readdirSync(folder);
    if (other !== undefined)
      throw new UserError(`${folder}: holds ${other}, which is not of this benchmark; name another --folder`);
    return started;
  }
  const found: State = JSON.parse(readFileSync(STATE, 'utf8'));
  if (found.passages !== N || found.graphSeconds !== GRAPH_SECONDS)
    throw new UserError(
      `${folder}: holds a run of --passages ${found.passages} --graph-minutes ${found.graphSeconds / 60}; pass the same to resume it, remove the folder, or name another --folder`,
    );
  return found;
}

function saveState(): void {
  writeFileAtomic(STATE, JSON.stringify(state));
}

function removeAll(): void {
  for (const name of CONTENTS) rmSync(join(folder, name), { recursive: true, force: true });
  if (readdirSync(folder).length === 0) rmdirSync(folder);
}

/** Bytes of all files in a folder. */
function sizeOf(dir: string): number {
  let bytes = 0;
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += statSync(join(entry.parentPath, entry.name)).size;
  return bytes;
}

function gb(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function duration(seconds: number): string {
  return seconds < 120
    ? `${seconds.toFixed(0)} s`
    : seconds < 7200
      ? `${(seconds / 60).toFixed(0)} min`
      : `${(seconds / 3600).toFixed(1)} h`;
}
