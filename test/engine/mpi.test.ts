import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { findInstalled, mpiFolder } from '../../src/engine/installed.mjs';
import { launchedRanks } from '../../src/engine/ranks.ts';
import { generateWorld, writeWorld } from '../../src/world/world.ts';
import { commandLine } from '../support/command-line.ts';
import { temporaryFolder } from '../support/tiny.ts';

// Ranks as processes of MPICH's mpiexec. test/train/ranks.test.ts has all stages, with the ranks in one process.

const root = join(import.meta.dirname, '..', '..');
const mpiexec = join(mpiFolder(), 'bin', 'mpiexec');
const installed = findInstalled()?.mpi !== undefined && existsSync(mpiexec);
const skip = installed ? false : 'MPI is not installed here: realm engine install --mpi';

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

/** Starts ranks of one program. @param meanwhile called once the job runs */
async function job(
  ranks: number,
  args: readonly string[],
  { env = {}, meanwhile }: { env?: NodeJS.ProcessEnv; meanwhile?(pid: number): Promise<void> } = {},
): Promise<Ended> {
  const child = spawn(mpiexec, ['-n', String(ranks), process.execPath, ...args], {
    cwd: root,
    env: { ...process.env, ...env },
  });
  const ended: Ended = { code: null, out: '', err: '' };
  child.stdout.on('data', (text) => {
    ended.out += text;
  });
  child.stderr.on('data', (text) => {
    ended.err += text;
  });
  const closed = once(child, 'close');
  await meanwhile?.(child.pid!);
  [ended.code] = await closed;
  return ended;
}

const entry = join(import.meta.dirname, '..', 'fixtures', 'ranks', 'rank.ts');
/** What the ranks saw, by rank. */
async function seen(ranks: number, ...args: string[]) {
  const ended = await job(ranks, ['--import', 'tsx', entry, ...args]);
  const records = ended.out
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
  return { ...ended, records: records.sort((a, b) => a.rank - b.rank) };
}

test('the number of ranks is that of the launcher, and not that of a Slurm job as a whole', () => {
  assert.equal(launchedRanks({}), 1);
  assert.equal(launchedRanks({ PMI_SIZE: '3' }), 3);
  assert.equal(launchedRanks({ OMPI_COMM_WORLD_SIZE: '2', SLURM_NTASKS: '8' }), 2);
  assert.equal(launchedRanks({ SLURM_NTASKS: '8' }), 1); // the batch script itself
  assert.equal(launchedRanks({ SLURM_NTASKS: '8', SLURM_STEP_NUM_TASKS: '8' }), 8);
});

describe('calls between processes', { skip }, () => {
  test('sums, broadcasts and what is made of them', async () => {
    const { code, err, records } = await seen(3, 'calls', join(temporaryFolder('mpi'), 'made'));
    assert.equal(code, 0, err);
    assert.equal(records.length, 3);
    const tensors = [
      [
        [2, 2],
        [6, 6, 9, 12],
      ],
      [[4], [6, 6, 9, 12]],
      [[70_000], [3, 3, 3, 3]],
      [[], [1.5]],
      [[0], []],
    ];
    for (const [rank, record] of records.entries()) {
      assert.deepEqual(record, {
        rank,
        size: 3,
        quiet: rank > 0,
        sums: [4.5, 3, 3 * 2 ** 40 + 3, 10],
        any: [true, false],
        first: [{ text: 'of 0, ∅', list: [1, null] }, null],
        gathered: [0, 1, 4],
        found: true,
        threads: Math.max(1, Math.floor(availableParallelism() / 3)),
        // In place, also where two names have one tensor; and by copies.
        tensors,
        copied: tensors,
        childSees: '',
        speaks: true,
      });
    }
  });

  test('a rank that abandons its work ends the wait of the others; one that fails ends the job', async () => {
    const abandoned = await seen(3, 'abandon');
    assert.equal(abandoned.code, 0, abandoned.err);
    assert.deepEqual(
      abandoned.records.map(({ heard, after }) => ({ heard, after })),
      [true, undefined, true].map((heard) => ({ heard, after: [7, 7, 7] })),
    );
    const failed = await seen(3, 'fail');
    assert.equal(failed.code, 2);
    assert.deepEqual(
      failed.records.map(({ heard }) => heard),
      [true, undefined, true],
    );
  });

  test('a rank that crashes, exits or fails ends the job, though the others would go on for a minute', async () => {
    for (const how of ['crash', 'exit', 'busy']) {
      const since = performance.now();
      const { code } = await seen(2, how);
      assert.notEqual(code, 0);
      assert.ok(performance.now() - since < 50_000, how);
    }
  });
});

// ---------------------------------------------------------------------------------------------- realm itself

describe('stages', { skip }, () => {
  const folder = temporaryFolder('mpi-run');
  const realm = commandLine(folder);
  const config = join(folder, 'realm.yaml');
  const STEPS = 20;
  before(async () => {
    writeWorld(generateWorld({ seed: 1, documents: 40, heldOut: 0.2 }), folder);
    // The encoder of the demo: with random weights many blocks would score the same to the last digits, and be retrieved or not.
    const settings = `
data: { documents: documents.jsonl, sentences: sentences.jsonl, train: questions.train.jsonl, dev: questions.test.jsonl }
text: { blockTokens: 64, sentenceTokens: 48, questionTokens: 48 }
model:
  { layers: 2, hidden: 128, heads: 4, intermediate: 512, positions: 112, dropout: 0.1, projection: 64, temperature: 8,
    spanHidden: 64, maxSpanWidth: 6, initial: 'realm:assets/world-encoder' }
index: { dtype: f32 }
ict: { steps: ${STEPS}, batch: 8, microBatch: 2, optimizer: { warmupSteps: 2, learningRate: 1.0e-4 } }
pretrain: { steps: ${STEPS}, batch: 8, microBatch: 2, candidates: 4, optimizer: { warmupSteps: 2 } }
refresh: { every: 8, mode: sync }
qa: { steps: ${STEPS}, batch: 8, microBatch: 2, retrieverBlocks: 10, readerBlocks: 3, readerTokens: 112 }
train: { logEvery: 1, saveEvery: 5 }
`;
    writeFileSync(config, settings);
    const ended = await realm('prepare', '--run', join(folder, 'start'), '--config', config);
    assert.equal(ended.code, 0, ended.err);
  });

  const lines = (run: string, stage: string) =>
    readFileSync(join(run, 'metrics', `${stage}.jsonl`), 'utf8')
      .split('\n')
      .slice(0, -1) // the last line may be incomplete
      .map((line) => JSON.parse(line));

  let made = 0;
  /** A copy of a run. */
  function copyOf(from: string): string {
    const to = join(folder, `run-${made++}`);
    cpSync(from, to, { recursive: true });
    return to;
  }

  const command = (stage: string, run: string) => ['bin/realm', stage, '--run', run];
  /** In this process's child, with as many threads as each of two ranks has: more would change the last digits. */
  const alone = (stage: string, run: string) => realm(stage, '--run', run, '--threads', '1');

  function assertSameLosses(stage: string, run: string, alone: string): void {
    const [a, b] = [lines(run, stage), lines(alone, stage)];
    assert.equal(a.length, b.length);
    for (const [i, line] of b.entries()) {
      for (const [name, value] of Object.entries<number>(line)) {
        // Of clocks, and of the processes.
        if (/seconds|refreshing/i.test(name)) continue;
        const error = Math.abs(a[i][name] - value);
        assert.ok(
          error <= 1e-5 * Math.max(1, Math.abs(value)),
          `${stage} ${i} ${name}: ${a[i][name]}, ${value}`,
        );
      }
    }
  }

  const weights = (run: string, stage: string) => {
    const latest = readFileSync(join(run, 'checkpoints', stage, 'latest'), 'utf8').trim();
    return readFileSync(join(run, 'checkpoints', stage, latest, 'model.safetensors'));
  };

  /** Ids of the processes that work in a run. */
  const processesOf = (run: string) =>
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => {
        try {
          const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
          return words.includes(run) && /node$/.test(words[0]);
        } catch {
          return false;
        }
      })
      .map(Number);

  test('2 ranks train as one process does; a killed rank ends the job, and the same command resumes', async () => {
    const warm = copyOf(join(folder, 'start'));
    const two = await job(2, command('ict-warmup', warm));
    assert.equal(two.code, 0, two.err);
    assert.match(two.err, /ranks: 2 processes train together; this one has 1 thread/);
    assert.equal(two.err.match(/engine: native/g)?.length, 1, 'rank 0 alone reports');
    const cold = copyOf(join(folder, 'start'));
    const ict = await alone('ict-warmup', cold);
    assert.equal(ict.code, 0, ict.err);
    assertSameLosses('ict-warmup', warm, cold);

    const undisturbed = copyOf(warm);
    const whole = await job(2, command('pretrain', undisturbed));
    assert.equal(whole.code, 0, whole.err);
    const single = copyOf(warm);
    const one = await alone('pretrain', single);
    assert.equal(one.code, 0, one.err);
    assertSameLosses('pretrain', undisturbed, single);
    const tuned = await job(2, command('finetune-qa', undisturbed));
    assert.equal(tuned.code, 0, tuned.err);
    rmSync(join(single, 'checkpoints', 'pretrain'), { recursive: true });
    cpSync(join(undisturbed, 'checkpoints', 'pretrain'), join(single, 'checkpoints', 'pretrain'), {
      recursive: true,
    });
    const oneTuned = await alone('finetune-qa', single);
    assert.equal(oneTuned.code, 0, oneTuned.err);
    assertSameLosses('finetune-qa', undisturbed, single);

    const killed = copyOf(warm);
    let since = 0;
    const end = await job(2, command('pretrain', killed), {
      async meanwhile() {
        const metrics = join(killed, 'metrics', 'pretrain.jsonl');
        while (!existsSync(metrics) || lines(killed, 'pretrain').length < 7)
          await new Promise((resolve) => setTimeout(resolve, 20));
        const { pid } = JSON.parse(readFileSync(join(killed, 'lock'), 'utf8'));
        const [other] = processesOf(killed).filter((id) => id !== pid);
        process.kill(other, 'SIGKILL');
        since = performance.now();
      },
    });
    assert.notEqual(end.code, 0);
    assert.ok(performance.now() - since < 5000, 'the job ends within 5 s');
    assert.ok(lines(killed, 'pretrain').length < STEPS, 'it was killed in the middle');
    assert.deepEqual(processesOf(killed), []);
    const resumed = await job(2, command('pretrain', killed));
    assert.equal(resumed.code, 0, resumed.err);
    assert.match(resumed.err, /pretrain: resumes from step 5 of 20/);
    assert.ok(weights(killed, 'pretrain').equals(weights(undisturbed, 'pretrain')), 'to the byte');
  });

  test('what cannot work is said once, in one sentence', async () => {
    const run = join(folder, 'start');
    const odd = await job(3, command('ict-warmup', run));
    assert.equal(odd.code, 2);
    assert.match(odd.err, /^realm: ict\.batch: is 8, which 3 ranks cannot share equally; set it to 9, /m);
    assert.equal(odd.err.match(/realm:/g)?.length, 1, odd.err);
    assert.doesNotMatch(odd.err, /Abort|BAD TERMINATION/);
    const none = await job(2, command('ict-warmup', run), { env: { REALM_MPI: '/nowhere/libmpi_abi.so.1' } });
    assert.match(none.err, /\/nowhere\/libmpi_abi\.so\.1: no MPI library there; correct REALM_MPI/);
    const other = await job(2, command('ict-warmup', run), { env: { REALM_MPI: 'libm.so.6' } });
    assert.match(
      other.err,
      /libm\.so\.6: cannot be used as the MPI library \(has not the standard ABI of MPI 5\)/,
    );
    // The trap of an srun that does not speak the library's protocol: each process is the only one.
    const lost = spawnSync(process.execPath, command('ict-warmup', run), {
      cwd: root,
      env: { ...process.env, SLURM_STEP_NUM_TASKS: '4' },
      encoding: 'utf8',
    });
    assert.equal(lost.status, 2);
    assert.match(
      lost.stderr,
      /MPI: the launcher started 4 processes, but each takes itself for one of 1; .* srun --mpi=pmi2/,
    );
  });
});
