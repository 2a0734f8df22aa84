import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Why no Redis server can be started here; false if one can. */
export const noRedis =
  spawnSync('redis-server', ['--version']).status === 0 ? false : 'redis-server is not installed';

/** A Redis server of its own, which keeps nothing on the disk. */
export interface TestRedis {
  url: URL;
  /** Kills it: whatever it held is lost. */
  kill(): Promise<void>;
  /** Starts it again at the same address. */
  start(): Promise<void>;
  /** Kills it and removes its folder. */
  end(): Promise<void>;
}

/** @param flags more of the server's own options */
export async function startRedis(flags: readonly string[] = [], password?: string): Promise<TestRedis> {
  const dir = mkdtempSync(join(tmpdir(), 'realm-redis-'));
  const port = await freePort();
  const tls = flags.includes('--tls-port');
  const url = new URL(`${tls ? 'rediss' : 'redis'}://127.0.0.1:${port}`);
  if (password !== undefined) url.password = password;
  const ports = tls ? ['--port', '0', '--tls-port', String(port)] : ['--port', String(port)];
  let server: ChildProcess;
  const redis: TestRedis = {
    url,
    async kill() {
      const gone = new Promise((resolve) => server.once('exit', resolve));
      if (server.exitCode === null && server.signalCode === null) {
        server.kill('SIGKILL');
        await gone;
      }
    },
    async start() {
      const own = ['--bind', '127.0.0.1', '--dir', dir, '--save', '', '--maxmemory-policy', 'noeviction'];
      const secret = password === undefined ? [] : ['--requirepass', password];
      const others = flags.filter((flag, i) => flag !== '--tls-port' && flags[i - 1] !== '--tls-port');
      server = spawn('redis-server', [...ports, ...own, ...secret, ...others], { stdio: 'ignore' });
      for (let tries = 0; ; tries++) {
        try {
          const socket = connect(port, '127.0.0.1');
          await once(socket, 'connect');
          socket.destroy();
          return;
        } catch (error) {
          if (tries > 200) throw error;
          await sleep(50);
        }
      }
    },
    async end() {
      await redis.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  await redis.start();
  return redis;
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
