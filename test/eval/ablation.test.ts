import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { ablationLines, ablationTable, type Outcomes, ROWS, verdict } from '../../src/eval/ablation.ts';
import { random } from '../../src/random.ts';

/** `n` results, of which the first `right` are right. */
const first = (right: number, n: number) => Array.from({ length: n }, (_, i) => i < right);
const row = (name: string, correct: boolean[][], recalled: boolean[][] = correct): Outcomes => {
  const { label, paper } = ROWS.find((r) => r.name === name)!;
  return { name, label, paper, correct, recalled };
};
const close = (a: number, b: number, within: number) => assert.ok(Math.abs(a - b) <= within, `${a}, ${b}`);

test('a metric is the mean over seeds, whatever the number of their questions', () => {
  const table = ablationTable([row('realm', [first(1, 2), first(3, 4)], [first(0, 2), first(4, 4)])]);
  assert.deepEqual([table.seeds, table.questions], [2, 6]);
  const [{ exactMatch, recall5, paper }] = table.rows;
  assert.deepEqual([exactMatch.mean, exactMatch.bySeed], [0.625, [0.5, 0.75]]);
  assert.deepEqual(recall5, { mean: 0.5, low: 0.5, high: 0.5, bySeed: [0, 1] });
  assert.deepEqual(paper, { exactMatch: 38.2, recall5: 38.5 });
});

test('intervals equal those of a binomial share, stratified by seed', () => {
  const [{ exactMatch }] = ablationTable([row('realm', [first(60, 200), first(180, 200)])]).rows;
  // Variance of the mean of two independent shares.
  const deviation = Math.sqrt((0.3 * 0.7 + 0.9 * 0.1) / 200) / 2;
  close(exactMatch.low, 0.6 - 1.96 * deviation, 0.004);
  close(exactMatch.high, 0.6 + 1.96 * deviation, 0.004);
});

test('the difference of two rows is computed question by question', () => {
  // Each is right on half of the questions; the first is right on two more, which is significant only because the others agree.
  const rng = random(4);
  const base = Array.from({ length: 400 }, () => rng.float() < 0.5);
  const more = base.map((right, i) => right || (i < 40 && i % 2 === 0));
  const table = ablationTable([row('realm', [more]), row('tokens', [base])]);
  const [pair] = table.order.exactMatch.pairs;
  assert.deepEqual([pair.better, pair.worse], ['realm', 'tokens']);
  const gained = more.filter((right, i) => right !== base[i]).length / 400;
  close(pair.difference.mean, gained, 1e-12);
  const deviation = Math.sqrt((gained * (1 - gained)) / 400);
  close(pair.difference.low, gained - 1.96 * deviation, 0.006);
  close(pair.difference.high, gained + 1.96 * deviation, 0.006);
  assert.equal(verdict(pair), 'same');
  const [a, b] = table.rows.map(({ exactMatch }) => exactMatch);
  assert.ok(a.low < b.high, 'their own intervals overlap');
});

test("the order is compared over the pairs that differ in the paper, and Kendall's tau counts them", () => {
  // Paper, exact match: realm 38.2, realm-reader and spans 35.3 (a tie), tokens 32.3; recall@5: 38.5, 13.9, 26.1, 24.2.
  const results: [string, number, number][] = [
    ['realm', 90, 90],
    ['realm-reader', 50, 10],
    ['tokens', 70, 50],
    ['spans', 60, 50],
    ['no-null', 95, 95],
  ];
  const table = ablationTable(
    results.map(([name, correct, recalled]) => row(name, [first(correct, 100)], [first(recalled, 100)])),
  );
  const { exactMatch, recall5 } = table.order;
  assert.deepEqual(
    exactMatch.pairs.map((p) => [p.better, p.worse, verdict(p)]),
    [
      ['realm', 'tokens', 'same'],
      ['realm-reader', 'tokens', 'reversed'],
      ['spans', 'tokens', 'reversed'],
      ['realm', 'realm-reader', 'same'],
      ['realm', 'spans', 'same'],
    ],
  );
  assert.equal(exactMatch.tau, 1 / 5);
  // Five of six pairs are as in the paper; spans and tokens are equal.
  assert.equal(recall5.pairs.length, 6);
  assert.equal(recall5.tau, 5 / 6);
  const text = ablationLines(table).join('\n');
  assert.match(
    text,
    /exact match: of 5 pairs .* 3 are in the same order here, 2 reversed, 0 too close to tell .* 0\.20\)/,
  );
  assert.match(
    text,
    /recall@5: of 6 pairs .* 5 are in the same order here, 0 reversed, 1 too close to tell .* 0\.83\)/,
  );
  assert.match(text, /too close to tell:\n {4}random span masks over random uniform masks: \+0\.0/);
  assert.match(text, /^REALM +90\.0 +\d+\.\d-\d+\.\d +38\.2 +90\.0 +\d+\.\d-\d+\.\d +38\.5$/m);
  assert.match(text, /^no null document +95\.0/m);
});

test('rows that are not in the paper are not compared', () => {
  const { order } = ablationTable([row('realm', [first(1, 2)]), row('trivial', [first(2, 2)])]);
  assert.deepEqual(order.exactMatch, { pairs: [], tau: null });
});

test('each row changes only the settings that it tests', () => {
  const config = loadConfig(undefined, ['refresh.every=0-100:10,100-:20']);
  const changed = Object.fromEntries(
    ROWS.map((r) => {
      const now = r.change(config) as unknown as Record<string, Record<string, unknown>>;
      const before = config as unknown as Record<string, Record<string, unknown>>;
      const differences = Object.keys(now).flatMap((section) =>
        typeof now[section] === 'object'
          ? Object.keys(now[section])
              .filter((key) => JSON.stringify(now[section][key]) !== JSON.stringify(before[section][key]))
              .map((key) => `${section}.${key}=${now[section][key]}`)
          : [],
      );
      return [r.name, differences.join(' ')];
    }),
  );
  assert.deepEqual(changed, {
    realm: '',
    'realm-retriever': 'qa.reader=initial',
    'realm-reader': 'qa.retriever=ict-warmup',
    baseline: 'qa.retriever=ict-warmup qa.reader=initial',
    tokens: 'pretrain.masking=tokens',
    spans: 'pretrain.masking=spans',
    stale: 'refresh.every=0-100:300,100-:600',
    'no-null': 'pretrain.nullDocument=false',
    trivial: 'pretrain.dropTrivial=false',
    marginal: 'pretrain.marginalize=token',
  });
});
