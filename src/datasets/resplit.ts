import { fingerprint64 } from 'farmhash-modern';

/**
 * True for the tenth of the training questions that ORQA uses as its dev set: tf.strings.to_hash_bucket_fast, which is
 * FarmHash's Fingerprint64 of the question modulo 100,000, modulo 10 is 0 (google-research/language,
 * language/orqa/preprocessing/create_data_splits.py, make_hash_fn, commit 865fae6). Its published counts are 79,168 and
 * 8,757 of Natural Questions, 3,417 and 361 of WebQuestions, 1,353 and 133 of CuratedTREC.
 * @param parts the dev set is one of this many parts; ORQA has 10
 */
export function isDevQuestion(question: string, parts = 10): boolean {
  return (fingerprint64(question) % 100_000n) % BigInt(parts) === 0n;
}
