/**
 * The pieces of a vocabulary as one trie over UTF-16 units, with a root for pieces that start a word and one for
 * `##` continuations. All edges are in one open-addressing hash table, so a step costs a probe and makes no string.
 */
export interface PieceTrie {
  /** Id of the longest piece at the start of units [from, to), or -1; `end()` is then where it stops. */
  longest(units: Uint16Array, from: number, to: number, continuation: boolean): number;
  end(): number;
}

const WORD_ROOT = 0;
const CONTINUATION_ROOT = 1;

export function pieceTrie(vocabulary: readonly string[]): PieceTrie {
  let most = 2;
  for (const piece of vocabulary) most += piece.length;
  const parent = new Int32Array(most);
  const unit = new Uint16Array(most);
  const idAt = new Int32Array(most).fill(-1);
  const slots = 2 ** Math.ceil(Math.log2(most * 2));
  const wrap = slots - 1;
  const table = new Int32Array(slots); // the child node of an edge; 0 is the word root, which is never a child
  let nodes = 2;

  /** The slot that holds the edge from `node` by `u`, or the empty one where it belongs. */
  function slotOf(node: number, u: number): number {
    let hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(u, 0x85ebca6b);
    hash ^= hash >>> 15;
    let slot = hash & wrap;
    for (let child = table[slot]; child !== 0 && (parent[child] !== node || unit[child] !== u); ) {
      slot = (slot + 1) & wrap;
      child = table[slot];
    }
    return slot;
  }

  for (let id = 0; id < vocabulary.length; id++) {
    const continuation = vocabulary[id].startsWith('##') && vocabulary[id].length > 2;
    const letters = continuation ? vocabulary[id].slice(2) : vocabulary[id];
    let node = continuation ? CONTINUATION_ROOT : WORD_ROOT;
    for (let i = 0; i < letters.length; i++) {
      const u = letters.charCodeAt(i);
      const slot = slotOf(node, u);
      if (table[slot] === 0) {
        parent[nodes] = node;
        unit[nodes] = u;
        table[slot] = nodes++;
      }
      node = table[slot];
    }
    idAt[node] = id;
  }

  let stop = 0;
  return {
    longest(units, from, to, continuation) {
      let node = continuation ? CONTINUATION_ROOT : WORD_ROOT;
      let best = -1;
      for (let i = from; i < to; i++) {
        node = table[slotOf(node, units[i])];
        if (node === 0) break;
        if (idAt[node] >= 0) {
          best = idAt[node];
          stop = i + 1;
        }
      }
      return best;
    },
    end: () => stop,
  };
}
