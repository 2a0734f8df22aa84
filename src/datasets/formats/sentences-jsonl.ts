import { shown, UserError } from '../../system/errors.ts';
import { codePointStarts } from '../code-points.ts';
import { type JsonLine, stringField } from '../jsonl.ts';
import type { ExternalSentence } from '../types.ts';

/** A line `{"text", "spans"?: [[start, end], …]}`, the spans in code points, as Python counts. */
export function plainSentence(line: JsonLine): ExternalSentence {
  const text = stringField(line, 'text');
  const { spans } = line.value;
  if (spans === undefined || spans === null) return { text, spans: undefined };
  if (!Array.isArray(spans))
    throw new UserError(`${line.where}: "spans" must be a list of [start, end] in characters`);
  const starts = codePointStarts(text);
  const characters = starts.length - 1;
  const ranges = spans.map((span) => {
    const [start, end] = Array.isArray(span) && span.length === 2 ? span : [];
    if (
      !(Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= characters)
    ) {
      throw new UserError(
        `${line.where}: span ${shown(span)} is not a [start, end] in the ${characters} characters of "text"; correct it`,
      );
    }
    return { start: starts[start], end: starts[end] };
  });
  return { text, spans: ranges.sort((a, b) => a.start - b.start) };
}
