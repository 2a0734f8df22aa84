import { isIPv4 } from 'node:net';
import { RateLimiterMemory } from 'rate-limiter-flexible';

/** Counts events of each client address within a time window that starts with the first of them. */
export interface Counter {
  /** Seconds until the address may try again; undefined when it may now. */
  wait(address: string): Promise<number | undefined>;
  add(address: string): Promise<void>;
}

export function countByAddress(max: number, milliseconds: number): Counter {
  const counts = new RateLimiterMemory({ points: max, duration: milliseconds / 1000 });
  return {
    async wait(address) {
      const count = await counts.get(client(address));
      if (count === null || count.consumedPoints < max) return undefined;
      return Math.max(1, Math.ceil(count.msBeforeNext / 1000));
    },
    async add(address) {
      await counts.penalty(client(address));
    },
  };
}

/** What counts as one client: an IPv4 address, or the /64 prefix of an IPv6 address, because one machine may own all of it. */
export function client(address: string): string {
  const mapped = address.replace(/^::ffff:/i, '');
  if (isIPv4(mapped)) return mapped;
  const [head, tail] = address.replace(/%.*/, '').split('::');
  const groups = head === '' ? [] : head.split(':');
  const after = tail ? tail.split(':') : [];
  const all =
    tail === undefined ? groups : [...groups, ...Array(8 - groups.length - after.length).fill('0'), ...after];
  return all
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
