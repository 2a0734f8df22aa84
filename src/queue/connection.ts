import { Redis } from 'ioredis';

/**
 * A connection, which is opened again whenever it is lost. Fails if there is none now.
 * @param patient later commands wait until the server is back, as the worker of BullMQ requires; else they fail within seconds
 */
export async function connect(url: URL, patient: boolean): Promise<Redis> {
  const client = new Redis(url.href, {
    lazyConnect: true,
    connectTimeout: 5000,
    retryStrategy: (times) => Math.min(100 * 2 ** times, 5000),
    maxRetriesPerRequest: patient ? null : 1,
    ...(patient ? {} : { commandTimeout: ANSWER }),
  });
  // What fails later is reported by commands; the reason of the first failure is in this event alone.
  const failed = new Promise<never>((_, reject) => client.on('error', reject));
  try {
    await inTime(Promise.race([client.connect().then(() => client.ping()), failed]));
    return client;
  } catch (error) {
    client.disconnect();
    throw error;
  }
}

/** Milliseconds in which the server must answer. */
const ANSWER = 10_000;

/** The result of work with the server; fails if it takes too long, since commands of BullMQ wait for a connection without a limit. */
export async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer for ${ANSWER / 1000} s`)), ANSWER);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
