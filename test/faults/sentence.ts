import type { End, Started } from './processes.ts';

/**
 * Problems with the way a command refused: it must end with exit code 2 and one matching sentence, without a stack.
 * Lines of progress and of the refresher may come before it.
 */
export function badRefusal(end: End, started: Started, sentence: RegExp): string[] {
  const said = started.stderr();
  const last = said.trimEnd().split('\n').at(-1) ?? '';
  const found: string[] = [];
  if (end.code !== 2) found.push(`exit code ${end.code}${end.signal ? `, signal ${end.signal}` : ''}, not 2`);
  if (/\n\s+at /.test(said)) found.push('a stack');
  if (!last.startsWith('realm: ')) found.push('no sentence at the end');
  if (!sentence.test(said)) found.push(`nothing like ${sentence}`);
  return found.length > 0 ? [`${found.join(', ')}; it said: ${lastLines(said)}`] : [];
}

export function lastLines(text: string, n = 6): string {
  return text.trim().split('\n').slice(-n).join(' | ').slice(-900);
}
