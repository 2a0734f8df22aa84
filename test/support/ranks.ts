import { AbandonedElsewhere, FailedElsewhere, type Ranks } from '../../src/engine/ranks.ts';

/** One call of a rank, as long as not all have come. */
interface Call {
  kind: 'any' | 'sum' | 'broadcast' | 'abandon' | 'fail';
  values: Float32Array | Float64Array | Uint8Array;
  done(): void;
  fail(error: Error): void;
}

/**
 * `work` on `size` ranks that live in this process, at once. Their calls meet as those of MPI do, with the same rules (see
 * `Ranks`). @returns the result of each rank; throws the first error of a rank, as a job ends with it
 */
export async function onRanks<T>(size: number, work: (ranks: Ranks) => Promise<T>): Promise<T[]> {
  let waiting: Call[] = [];
  const meet = () => {
    const calls = waiting;
    waiting = [];
    const kinds = new Set(calls.map(({ kind }) => kind));
    const error = kinds.has('fail')
      ? () => new FailedElsewhere()
      : kinds.has('abandon')
        ? () => new AbandonedElsewhere()
        : kinds.size > 1 || new Set(calls.map(({ values }) => values.length)).size > 1
          ? () =>
              new Error(
                `the ranks made different calls: ${calls.map(({ kind, values }) => `${kind} of ${values.length}`).join(', ')}`,
              )
          : undefined;
    if (!error) combine(calls);
    for (const { kind, done, fail } of calls) {
      if (error && kind !== 'abandon' && kind !== 'fail') fail(error());
      else done();
    }
  };
  const of = (rank: number): Ranks & { fail(): Promise<void> } => {
    const call = (kind: Call['kind'], values: Call['values'] = new Float64Array(1)) =>
      new Promise<void>((done, fail) => {
        waiting[rank] = { kind, values, done, fail };
        if (Object.keys(waiting).length === size) meet();
      });
    return {
      rank,
      native: false,
      size,
      async any(flag) {
        const values = Float64Array.of(flag ? 1 : 0);
        await call('any', values);
        return values[0] > 0;
      },
      sum: (values) => call('sum', values),
      broadcast: (values) => call('broadcast', values),
      abandon: () => call('abandon'),
      fail: () => call('fail'),
    };
  };
  const results = await Promise.allSettled(
    Array.from({ length: size }, async (_, rank) => {
      const ranks = of(rank);
      try {
        return await work(ranks);
      } catch (error) {
        if (!(error instanceof FailedElsewhere))
          await Promise.race([ranks.fail(), new Promise((r) => setTimeout(r, 500))]);
        throw error;
      }
    }),
  );
  const failed = results.filter((result) => result.status === 'rejected').map(({ reason }) => reason);
  if (failed.length > 0) throw failed.find((error) => !(error instanceof FailedElsewhere)) ?? failed[0];
  return results.map((result) => (result as PromiseFulfilledResult<T>).value);
}

function combine(calls: readonly Call[]): void {
  const { kind, values: first } = calls[0];
  if (kind === 'broadcast') for (const { values } of calls) values.set(first);
  else
    for (let i = 0; i < first.length; i++) {
      const sum = calls.reduce((total, { values }) => total + values[i], 0);
      for (const { values } of calls) values[i] = sum;
    }
}
