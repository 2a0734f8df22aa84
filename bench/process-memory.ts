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

/** The same for a process and those that it has started, added up: pages that they share count in each. */
export function familyMemory(pid: number, what: 'VmRSS' | 'VmHWM'): number | undefined {
  let children: number[] = [];
  try {
    children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number);
  } catch {}
  const all = [pid, ...children].map((one) => processMemory(one, what));
  return all.reduce((sum, one) => (sum === undefined || one === undefined ? undefined : sum + one), 0);
}
