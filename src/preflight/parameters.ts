import type { Config } from '../config.ts';
import {
  countParameters,
  describeModel,
  modelShapes,
  readerTowerShapes,
  retrieverShapes,
} from '../model/model.ts';
import type { Parameters } from './types.ts';

/** Parameters of each part of a model with so many word pieces. */
export function parametersOf(model: Config['model'], vocabulary: number): Parameters {
  const sizes = describeModel(model, vocabulary);
  const reader = readerTowerShapes(sizes);
  const spans = reader.filter(({ name }) => name.startsWith('span.'));
  return {
    retriever: countParameters(retrieverShapes(sizes)),
    reader: countParameters(reader) - countParameters(spans),
    spanScorer: countParameters(spans),
    total: countParameters(modelShapes(sizes)),
  };
}
