import { createHash, randomBytes } from 'node:crypto';

/** Sessions kept at once; the oldest ends when another begins. */
const MOST = 1000;

export interface Sessions {
  /** Begins a session and returns its secret, which is not kept: only its SHA-256 is. */
  begin(): string;
  has(secret: string | undefined): boolean;
  end(secret: string | undefined): void;
}

/** Sessions of browsers that have logged in. They are in memory only: a restart ends them all. */
export function openSessions(milliseconds: number): Sessions {
  const ends = new Map<string, number>(); // SHA-256 of the secret → when it ends, in order of their beginning
  const key = (secret: string) => createHash('sha256').update(secret).digest('base64');
  return {
    begin() {
      const now = performance.now();
      for (const [one, end] of ends) if (end <= now || ends.size >= MOST) ends.delete(one);
      const secret = randomBytes(32).toString('base64url');
      ends.set(key(secret), now + milliseconds);
      return secret;
    },
    has: (secret) => secret !== undefined && (ends.get(key(secret)) ?? -Infinity) > performance.now(),
    end(secret) {
      if (secret !== undefined) ends.delete(key(secret));
    },
  };
}
