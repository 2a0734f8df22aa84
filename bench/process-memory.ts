import { readFileSync } from 'node:fs';

/**
 * Resident memory of a running process, in bytes: now (VmRSS) or at most so far (VmHWM). Undefined where the system does not
 * tell, or the process has ended.
 */
export function processMemory(pid: number | 'self', what: 'VmRSS' | 'VmHWM'): number | undefined {
  try {
    const kilobytes = new RegExp(`${what}:\\s+(\\d+) kB`).exec(
      readFileSync(`/proc/${pid}/status`, 'utf8'),
    )?.[1];
    return kilobytes === undefined ? undefined : 1024 * Number(kilobytes);
  } catch {
    return undefined;
  }
}
