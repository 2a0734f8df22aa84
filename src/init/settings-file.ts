import { Document, isMap, type Scalar, YAMLMap } from 'yaml';
import type { Setting } from './proposal.ts';

/** If a line were longer, its comment goes above it. */
const MAX_LINE_CHARACTERS = 110;

/**
 * A configuration file with a comment for each setting, sections in the order of the settings.
 * @param head lines of the comment at the top
 */
export function settingsText(settings: readonly Setting[], head: readonly string[]): string {
  const document = new Document({});
  for (const { path, value, why } of settings) {
    const keys = path.split('.');
    const name = keys.pop()!;
    let map = document.contents as unknown as YAMLMap<Scalar, unknown>;
    for (const key of keys) {
      const existing = map.get(key, true);
      const inner = isMap(existing) ? (existing as YAMLMap<Scalar, unknown>) : new YAMLMap<Scalar, unknown>();
      if (!isMap(existing)) map.set(document.createNode(key) as Scalar, inner);
      map = inner;
    }
    const node = document.createNode(value) as Scalar;
    const key = document.createNode(name) as Scalar;
    if (2 * keys.length + name.length + String(value).length + why.length + 5 > MAX_LINE_CHARACTERS)
      key.commentBefore = ` ${why}`;
    else node.comment = ` ${why}`;
    map.set(key, node);
  }
  for (const { key } of (document.contents as unknown as YAMLMap<Scalar>).items.slice(1))
    key.spaceBefore = true;
  document.commentBefore = head.map((line) => ` ${line}`).join('\n');
  return document.toString({ lineWidth: 0 });
}
