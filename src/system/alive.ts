import { errorCode } from './errors.ts';

/** Whether a process of this host runs, also one of another user, and one that has ended but was not waited for. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
  }
}
