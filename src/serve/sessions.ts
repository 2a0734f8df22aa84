import { createHash, randomBytes } from 'node:crypto';

/** When there are more, the oldest ends. */
const MAX_SESSIONS = 1000;

export interface Sessions {
  /** Starts a session and returns its secret. Only the SHA-256 of the secret is kept. */
  start(): string;
  has(secret: string | undefined): boolean;
  end(secret: string | undefined): void;
}

/** Sessions of browsers that have logged in. They are in memory only: a restart ends them all. */
export function openSessions(milliseconds: number): Sessions {
  const ends = new Map<string, number>(); // SHA-256 of the secret → when it ends, in order of their start
  const key = (secret: string) => createHash('sha256').update(secret).digest('base64');
  return {
    start() {
      const now = performance.now();
      for (const [one, end] of ends) if (end <= now || ends.size >= MAX_SESSIONS) ends.delete(one);
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
