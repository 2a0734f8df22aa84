import { type Random, random } from '../random.ts';

/**
 * The order of training examples: every epoch is a different permutation of 0 … n − 1, computed position by position
 * (a four-round Feistel network with cycle walking), so that no list of examples is kept and a resumed run needs only
 * its step number to continue.
 * @returns the example at `position`, counted from the start of training
 */
export function exampleAt(seed: number, n: number, position: number): number {
  const epoch = Math.floor(position / n);
  let half = 1;
  while (4 ** half < n) half++;
  const mask = 2 ** half - 1;
  let at = position - epoch * n;
  do {
    let left = Math.floor(at / (mask + 1));
    let right = at & mask;
    for (let round = 0; round < 4; round++) {
      const next = left ^ (mix(right, seed, epoch * 4 + round) & mask);
      left = right;
      right = next;
    }
    at = left * (mask + 1) + right;
  } while (at >= n);
  return at;
}

/** Random numbers for one step: no random state is carried from step to step. */
export function stepRandom(seed: number, step: number): Random {
  return random(mix(step, seed, 0x5eed));
}

/** 32 well-mixed bits of three numbers (the finaliser of MurmurHash3). */
function mix(a: number, b: number, c: number): number {
  let h = Math.imul(a ^ Math.imul(b, 0x9e3779b1) ^ Math.imul(c, 0x85ebca77), 0xcc9e2d51);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) | 0;
}
