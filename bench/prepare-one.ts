// Runs `prepare` once in a separate process, for prepare.ts: `prepare-one.ts DOCUMENTS VOCABULARY DIR` prints `Prepared`.
import { prepare } from '../src/corpus/prepare.ts';
import { loadWordPiece } from '../src/tokenizer/wordpiece.ts';

export interface Prepared {
  tokens: number;
  seconds: number;
  /** Processor time of all threads. */
  cpuSeconds: number;
  /** Peak resident bytes. */
  peak: number;
}

const [documents, vocabulary, dir] = process.argv.slice(2);
const startTime = performance.now();
const before = process.cpuUsage();
const vocab = loadWordPiece(vocabulary, true);
const { tokens } = await prepare({ documents, vocab, blockTokens: 288, queryTokens: 64, dir });
const { user, system } = process.cpuUsage(before);
const prepared: Prepared = {
  tokens,
  seconds: (performance.now() - startTime) / 1000,
  cpuSeconds: (user + system) / 1e6,
  peak: process.resourceUsage().maxRSS * 1024,
};
console.log(JSON.stringify(prepared));
