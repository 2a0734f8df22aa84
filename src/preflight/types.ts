// What a run will need, computed before anything runs: from settings, counts of the data and speeds of the machine to
// parameters, memory, disk and time. Nothing here reads a file or computes a tensor.

/** How much data there is and how long its texts are, in word pieces without special tokens. */
export interface Counts {
  documents: number;
  blocks: number;
  /** Sentences of X, the masked language model's corpus. */
  sentences: number;
  /** True when X comes from a file of its own (external sentences): its tokens are then stored in addition to the blocks'. */
  foreignSentences: boolean;
  trainQuestions: number;
  /** Questions of data.dev; 0 if it names no file. */
  devQuestions: number;
  testQuestions: number;
  vocabulary: number;
  title: Length;
  body: Length;
  sentence: Length;
  question: Length;
  /** Means: bytes of a block's text, bytes of a document's id and title, and sentences of a block. */
  blockBytes: number;
  documentBytes: number;
  blockSentences: number;
  /** Masked spans of a sentence, mean. */
  spans: number;
}

export interface Length {
  mean: number;
  max: number;
}

/** Sizes of the machine in bytes, and its speeds a second. */
export interface Machine {
  memory: number;
  diskFree: number;
  /** Bytes of the GPU's memory, if the engine computes on one: tensors are there. */
  gpuMemory?: number;
  /** Most bytes that the engine can hold, if that is less than the machine's memory. */
  engineMemory?: number;
  /** Floating point operations in dense layers of the model's own size, and in its attention. */
  dense: number;
  attention: number;
  /** Bytes read and written by an element-wise product. */
  elementwise: number;
  /** Seconds that the smallest kernel takes. */
  kernel: number;
  /** Whether the engine has kernels of our own (src/engine/fused.ts). */
  fused: boolean;
}

export interface Parameters {
  retriever: number;
  reader: number;
  spanScorer: number;
  total: number;
}

export interface StageNeeds {
  stage: string;
  /** Bytes at the peak, in all processes of the stage; `of` says what they hold. */
  memory: number;
  of: {
    process: number;
    weights: number;
    optimizer: number;
    gradients: number;
    activations: number;
    index: number;
    refresher: number;
  };
  /** Bytes on disk when the stage is done, and the most while it runs. */
  disk: number;
  diskPeak: number;
  /** Wall time: the estimate, and the range within its accuracy. */
  seconds: number;
  secondsRange: [number, number];
  /** Training steps, and the seconds of one. */
  steps?: number;
  stepSeconds?: number;
  /** The settings that lower memory and time most, in words. */
  memoryRemedy: string;
  timeRemedy: string;
}

export interface Preflight {
  parameters: Parameters;
  stages: StageNeeds[];
  /** Most bytes on disk at any time, during or after the run; and wall time of all stages. */
  disk: number;
  seconds: number;
  secondsRange: [number, number];
  assumptions: string[];
  warnings: string[];
}
