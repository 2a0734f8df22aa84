import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import * as tf from '@tensorflow/tfjs';
import {
  disposeInput,
  dropoutRng,
  encode,
  encoderInput,
  gatherRows,
  gelu,
  logLikelihood,
  maskedLanguageModel,
  pool,
} from '../../src/model/bert.ts';
import { random } from '../../src/random.ts';
import { startTestEngine } from '../support/engine.ts';
import {
  assertClose,
  assertGradients,
  loadFixture,
  relativeError,
  rows,
  tokenRows,
  tokenValues,
  withoutLeak,
} from '../support/model-fixture.ts';

before(() => startTestEngine());

for (const name of ['bert-gelu', 'bert-gelu-new']) {
  describe(`${name} against transformers' BertModel`, () => {
    const load = () => {
      const { config, params, expected } = loadFixture(name, 'reader.');
      return { config, params, expected, input: encoderInput(rows(expected), expected.firstSegment) };
    };

    test('outputs for every token and the pooled output', () => {
      const { config, params, expected, input } = load();
      const { lengths } = expected;
      assert.equal(
        lengths.reduce((a: number, b: number) => a + b),
        24,
      );
      const outputs = withoutLeak(() => encode(params, 'reader.', config, input));
      const wanted = tokenValues<number[]>(expected.sequence, lengths);
      assertClose(tokenRows(outputs, input, lengths), wanted, 'sequence output');

      const first = tf.gather(outputs, input.first.at) as tf.Tensor2D;
      const pooled = withoutLeak(() => pool(params, 'reader.', first));
      assertClose(pooled, expected.pooled, 'pooled output');
      disposeInput(input);
    });

    test('gradients of every parameter', () => {
      const { config, params, expected, input } = load();
      const { lengths } = expected;
      // Outputs at padding are meaningless; the fixture's weights are 0 there.
      const weights = tf.tensor2d(tokenValues<number[]>(expected.sequenceWeights, lengths));
      const pooledWeights = tf.tensor(expected.pooledWeights);
      assertGradients(params, 'reader.', config, `${name}/gradients.safetensors`, () => {
        const outputs = encode(params, 'reader.', config, input);
        const pooled = pool(params, 'reader.', tf.gather(outputs, input.first.at) as tf.Tensor2D);
        const sum = tokenRows(outputs, input, lengths).mul(weights).sum();
        return sum.add(pooled.mul(pooledWeights).sum()) as tf.Scalar;
      });
    });

    test('some gathered positions have the same outputs as in the whole sequence', () => {
      const { config, params, expected, input } = load();
      const positions = [[0, 9], [5], [3, 3, 1]];
      const some = encode(params, 'reader.', config, input, undefined, gatherRows(input, positions));
      const wanted = positions.flatMap((own, b) => own.map((t) => expected.sequence[b][t]));
      assertClose(some, wanted, 'outputs at positions');
    });
  });
}

describe("the masked-LM head against transformers' BertForPreTraining", () => {
  const load = () => {
    const { config, params, expected } = loadFixture('masked-lm', '');
    const input = encoderInput(rows(expected), expected.firstSegment);
    const masks = gatherRows(input, expected.positions);
    const outputs = () => encode(params, '', config, input, undefined, masks);
    const logits = () => maskedLanguageModel(params, '', config, outputs());
    const targets = tf.tensor1d(expected.targets.flat(), 'int32');
    const loss = () => logLikelihood(params, '', config, outputs(), targets).mean().neg() as tf.Scalar;
    return { config, params, expected, logits, loss };
  };

  test('scores of all word pieces at the masks', () => {
    const { expected, logits } = load();
    assertClose(
      withoutLeak(() => tf.tidy(logits)),
      expected.logits,
      'logits',
    );
  });

  test('loss and gradients, with the decoder tied to the word embeddings', () => {
    const { config, params, expected, loss } = load();
    assertClose(loss(), expected.loss, 'loss');
    assertGradients(params, '', config, 'masked-lm/gradients.safetensors', loss);
  });
});

test('gelu and its gradient at single values', () => {
  const points = [-3, -1, 0, 0.5, 2];
  const x = tf.tensor1d(points);
  const check = (actual: tf.Tensor, expected: number[]) => {
    const error = relativeError(actual.dataSync(), expected);
    assert.ok(error < 1e-6, `relative error ${error}`);
  };
  // x Φ(x) and Φ(x) + x φ(x), from a table of the normal distribution:
  check(gelu(x, 'exact'), [-0.00404969409, -0.158655254, 0, 0.345731231, 1.95449974]);
  const slopes = [-0.0119456472, -0.0833154706, 0.5, 0.867495125, 1.0852318];
  check(tf.grad((x) => gelu(x, 'exact').sum())(x), slopes);
  // The tanh form from its formula, the slope by finite differences.
  const tanh = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  check(gelu(x, 'tanh'), points.map(tanh));
  const slope = (x: number) => (tanh(x + 1e-4) - tanh(x - 1e-4)) / 2e-4;
  check(tf.grad((x) => gelu(x, 'tanh').sum())(x), points.map(slope));
});

test('gelu far from 0 is the identity or 0', () => {
  for (const kind of ['exact', 'tanh'] as const) {
    const x = tf.tensor1d([-1000, -20, 20, 1000]);
    assertClose(gelu(x, kind), [0, 0, 20, 1000], kind);
    assertClose(tf.grad((x) => gelu(x, kind).sum())(x), [0, 0, 1, 1], `slope of ${kind}`);
  }
});

test('a sequence longer than the number of positions is refused', () => {
  const { config, params } = loadFixture('bert-gelu', '');
  const input = encoderInput([new Int32Array(25).fill(7)], [25]);
  assert.throws(() => encode(params, '', config, input), /25 tokens.*24 positions/);
});

for (const [layout, lengths] of [
  ['nearly full, so padded', [10, 10, 9, 10, 10, 10]],
  ['uneven, so packed', [10, 3, 9, 1, 10, 6]],
] as const) {
  test(`a batch ${layout}: same result as each sequence alone`, () => {
    const { config, params } = loadFixture('bert-gelu', '');
    const sequences = lengths.map((n, b) =>
      Int32Array.from({ length: n }, (_, t) => 5 + ((7 * b + 3 * t) % 11)),
    );
    const variables = [...params.values()];
    // Squares, so that the gradient differs from output to output.
    const total = (rows: Int32Array[]) => {
      const input = encoderInput(
        rows,
        rows.map((s) => Math.ceil(s.length / 2)),
      );
      return tf.variableGrads(
        () => {
          const outputs = encode(params, '', config, input);
          const tokens = tokenRows(
            outputs,
            input,
            rows.map((s) => s.length),
          );
          return tokens.add(0.1).square().sum() as tf.Scalar;
        },
        variables.filter((v) => !/pooler|mlm/.test(v.name)),
      );
    };
    const together = total(sequences);
    const alone = sequences.map((s) => total([s]));
    const sum = (tensors: tf.Tensor[]) => tf.addN(tensors);
    assertClose(together.value, sum(alone.map((a) => a.value)).arraySync() as number, 'loss');
    for (const [name, gradient] of Object.entries(together.grads)) {
      const wanted = sum(alone.map((a) => a.grads[name]));
      assert.ok(relativeError(gradient.dataSync(), [...wanted.dataSync()]) < 1e-4, name);
    }
  });
}

test('recomputed layers give the same gradients, also with dropout', () => {
  const { config, params } = loadFixture('bert-gelu', '');
  const input = encoderInput([Int32Array.of(3, 4, 5, 6, 7), Int32Array.of(9, 8)], [2, 1]);
  const read = gatherRows(input, [[0, 3], [1]]);
  const variables = [...params.values()].filter((v) => !/pooler|mlm/.test(v.name));
  for (const rate of [0, 0.3]) {
    const run = (recompute: boolean) => {
      const rng = dropoutRng(rate, random(5));
      const { value, grads } = withoutLeak(() =>
        tf.variableGrads(() => {
          if (rng) rng.random = random(6);
          const outputs = encode(params, '', { ...config, recompute }, input, rng, read);
          return outputs.add(0.1).square().sum() as tf.Scalar;
        }, variables),
      );
      rng?.dispose();
      return { value: value.dataSync()[0], grads };
    };
    const plain = run(false);
    const again = run(true);
    assert.equal(again.value, plain.value);
    assert.deepEqual(Object.keys(again.grads).sort(), Object.keys(plain.grads).sort());
    for (const [name, wanted] of Object.entries(plain.grads)) {
      assert.ok(relativeError(again.grads[name].dataSync(), [...wanted.dataSync()]) < 1e-5, name);
    }
  }
});
