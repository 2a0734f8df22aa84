import { xoroshiro128plus, xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';

/** A seeded source of random numbers. Its state can be saved and restored, so that a run can be repeated and resumed. */
export interface Random {
  /** A float in [0, 1) with 32 random bits. */
  float(): number;
  /** An integer in [0, n). */
  int(n: number): number;
  /** One element, uniformly. */
  pick<T>(items: readonly T[]): T;
  /** Shuffles in place (Fisher-Yates) and returns its argument. */
  shuffle<T extends { length: number; [i: number]: unknown }>(items: T): T;
  /** A new generator, independent of later draws from this one. */
  fork(): Random;
  /** State for a checkpoint; `randomFromState` takes it. */
  state(): number[];
}

export function random(seed: number): Random {
  return wrap(xoroshiro128plus(seed));
}

export function randomFromState(state: readonly number[]): Random {
  return wrap(xoroshiro128plusFromState(state));
}

function wrap(generator: ReturnType<typeof xoroshiro128plus>): Random {
  const bits = () => generator.next() >>> 0;
  const self: Random = {
    float: () => bits() / 2 ** 32,
    int: (n) => Math.floor((bits() / 2 ** 32) * n),
    pick: (items) => items[self.int(items.length)],
    shuffle(items) {
      for (let i = items.length - 1; i > 0; i--) {
        const j = self.int(i + 1);
        const held = items[i];
        items[i] = items[j];
        items[j] = held;
      }
      return items;
    },
    fork: () => random(bits() | 0),
    state: () => [...generator.getState()],
  };
  return self;
}
