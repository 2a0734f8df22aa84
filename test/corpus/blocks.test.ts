import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BLOCK_SPECIALS, bodyRoom, packBlocks, titleRoom } from '../../src/corpus/blocks.ts';
import { random } from '../../src/random.ts';

const groups = (lengths: number[], title: number, blockTokens: number) =>
  packBlocks(lengths, bodyRoom(title, blockTokens)).map(({ first, end }) => lengths.slice(first, end));

test('the next sentence joins while special tokens, title and body fit', () => {
  // 3 special tokens, 2 of the title: 5 are left of 10.
  assert.deepEqual(groups([2, 3, 1, 4, 5, 1], 2, 10), [[2, 3], [1, 4], [5], [1]]);
  assert.deepEqual(groups([5], 2, 10), [[5]]);
  assert.deepEqual(groups([], 2, 10), []);
});

test('a sentence too long for any block makes one alone', () => {
  assert.deepEqual(groups([1, 9, 1, 1], 2, 10), [[1], [9], [1, 1]]);
  assert.deepEqual(groups([9, 9], 2, 10), [[9], [9]]);
});

test('every sentence lies in one block, in order, and no block could take the next sentence', () => {
  const rng = random(3);
  for (let round = 0; round < 200; round++) {
    const lengths = Array.from({ length: rng.int(30) }, () => 1 + rng.int(40));
    const title = rng.int(10);
    const room = 64 - BLOCK_SPECIALS - title;
    const blocks = groups(lengths, title, 64);
    assert.deepEqual(blocks.flat(), lengths);
    for (let b = 0; b < blocks.length; b++) {
      const tokens = blocks[b].reduce((sum, n) => sum + n, 0);
      assert.ok(tokens <= room || blocks[b].length === 1);
      if (b > 0) assert.ok(blocks[b - 1].reduce((sum, n) => sum + n, 0) + blocks[b][0] > room);
    }
  }
});

test('a title takes half a block at most', () => {
  assert.equal(titleRoom(288), 142);
  assert.ok(titleRoom(8) >= 1 && 8 - BLOCK_SPECIALS - titleRoom(8) >= 1);
});
