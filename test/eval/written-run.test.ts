import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Corpus } from '../../src/corpus/store/reader.ts';
import { readQrels } from '../../src/datasets/qrels.ts';
import { fourDigits, judgedValues } from '../../src/eval/judged.ts';
import { rankingWriter } from '../../src/eval/rankings.ts';
import { readRunFile } from '../../src/eval/run-files.ts';
import { mean } from '../../src/eval/statistics.ts';
import { random } from '../../src/random.ts';
import { temporaryFolder } from '../support/tiny.ts';

const fixture = (name: string) => new URL(`../fixtures/judged/${name}`, import.meta.url).pathname;
const folder = temporaryFolder('written-run');

// Rankings of 30 documents with three different scores, equal ones by block number, which is no order of their ids.
const rng = random(7);
const ids = rng.shuffle(Array.from({ length: 30 }, (_, i) => ['d', 'D', 'é', '😀'][i % 4] + i));
const corpus = {
  blocks: ids.length,
  documents: ids.length,
  documentId: (b: number) => ids[b],
  title: (b: number) => ids[b],
  text: (b: number) => ids[b],
} as Corpus;
const rankings = Array.from({ length: 8 }, (_, q) => {
  const scores = ids.map(() => [2.5, 0.1, -7][rng.int(3)]);
  const blocks = [...ids.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, 25);
  return { id: `q${q + 1}`, blocks, scores: blocks.map((block) => scores[block]) };
});
const grades = rankings.map(() => rng.shuffle([...ids]).slice(0, 12));

function written(): string {
  let text = '';
  const writer = rankingWriter(corpus, { format: 'trec', protocol: 'dpr' }, (more) => {
    text += more;
  });
  for (const [i, { id, blocks, scores }] of rankings.entries()) {
    const question = { question: 'which?', id, answers: [], answerKind: 'string' as const };
    writer.add({ question, number: i + 1, blocks, scores });
  }
  writer.end();
  return text;
}

const qrels = grades
  .flatMap((judged, q) => judged.map((id, i) => `q${q + 1} 0 ${id} ${[1, 2, 3, 0][i % 4]}\n`))
  .join('');
if (process.env.REALM_UPDATE_WRITTEN) {
  writeFileSync(fixture('written.trec'), written());
  writeFileSync(fixture('written.qrels'), qrels);
}

/** Our name of a measure of trec_eval, ir_measures or ranx. */
function ours(name: string): string {
  const names: Record<string, string> = { map: 'MAP', AP: 'MAP', recip_rank: 'MRR', RR: 'MRR', mrr: 'MRR' };
  if (/^r-?prec/i.test(name)) return 'R-precision';
  return (
    names[name] ??
    name
      .replace(/^(ndcg_cut_|ndcg@)/, 'nDCG@')
      .replace(/^(recall_|R@)/, 'recall@')
      .replace(/^(P_|precision@)/, 'P@')
  );
}

test('a run that we write has the same figures by trec_eval, pytrec_eval, ir_measures and ranx, and in our order', async () => {
  assert.equal(written(), readFileSync(fixture('written.trec'), 'utf8'));
  assert.equal(qrels, readFileSync(fixture('written.qrels'), 'utf8'));
  const judgements = await readQrels(fixture('written.qrels'));
  const inOurOrder = new Map(rankings.map(({ id, blocks }) => [id, blocks.map((block) => ids[block])]));
  assert.deepEqual(await readRunFile(fixture('written.trec')), inOurOrder);
  const { values } = judgedValues(inOurOrder, judgements);
  // scripts/protocols/written_run.py made it.
  const { figures, saved } = JSON.parse(readFileSync(fixture('written.json'), 'utf8'));
  for (const [tool, measures] of Object.entries<Record<string, string | number>>(figures)) {
    assert.equal(Object.keys(measures).length, 15);
    for (const [name, value] of Object.entries(measures)) {
      const own = mean(values[ours(name)]);
      if (typeof value === 'string') assert.equal(fourDigits(own), value, `${tool} ${name}`);
      else assert.ok(Math.abs(own - value) < 1e-9, `${tool} ${name}: ${value}, ours ${own}`);
    }
  }
  for (const [kind, text] of Object.entries<string>(saved)) {
    const path = join(folder, `saved.${kind}`);
    writeFileSync(path, text);
    assert.deepEqual(await readRunFile(path), inOurOrder, `ranx's ${kind}`);
  }
});
