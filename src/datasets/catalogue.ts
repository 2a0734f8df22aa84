/** One published file. */
export interface DataFile {
  /** Its local name, which decides its format. */
  name: string;
  url: string;
  /** Bytes and SHA-256 of the file; undefined if they are not published. */
  bytes?: number;
  sha256?: string;
}

export interface DataSet {
  what: string;
  licence: string;
  files: DataFile[];
  /** The same questions as Parquet on the Hugging Face Hub. */
  hub?: DataFile[];
}

const NQ = 'https://raw.githubusercontent.com/google-research-datasets/natural-questions/master/nq_open';
const SQUAD = 'https://rajpurkar.github.io/SQuAD-explorer/dataset';
const CODALAB = 'https://worksheets.codalab.org/rest/bundles';
const DPR = 'https://dl.fbaipublicfiles.com/dpr';

const BEIR = 'https://huggingface.co/datasets/BeIR';

/** Files of a data set of the Hub, at a commit or branch. */
const hub = (name: string, commit: string, folder: string, splits: readonly string[]): DataFile[] =>
  splits.map((split) => {
    const file = `${split}-00000-of-00001.parquet`;
    return { name: file, url: `https://huggingface.co/datasets/${name}/resolve/${commit}/${folder}/${file}` };
  });

const dpr = (path: string) => ({ name: path.replace(/.*\//, ''), url: `${DPR}/${path}` });

/**
 * The data sets that `realm data get` knows. DPR's addresses: facebookresearch/DPR, dpr/data/download_data.py, commit
 * a31212d; it publishes no checksums. Bytes and SHA-256: huggingface/datasets, datasets/{nq_open, web_questions, squad,
 * squad_v2, wiki_dpr}/dataset_infos.json, commit 040102f; those of EfficientQA from google-research-datasets/
 * natural-questions, nq_open/, commit fb26a30.
 */
export const CATALOGUE: Record<string, DataSet> = {
  'nq-open': {
    what: 'Natural Questions, open: 87,925 training questions and the 3,610 that papers report on',
    licence: 'CC BY-SA 3.0',
    files: [
      {
        name: 'NQ-open.train.jsonl',
        url: `${NQ}/NQ-open.train.jsonl`,
        bytes: 8_522_298,
        sha256: '0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf',
      },
      {
        name: 'NQ-open.dev.jsonl',
        url: `${NQ}/NQ-open.dev.jsonl`,
        bytes: 391_316,
        sha256: 'f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616',
      },
    ],
    hub: hub('google-research-datasets/nq_open', '5dd9790a83002ad084ddeb7c420dc716852c6f28', 'nq_open', [
      'train',
      'validation',
    ]),
  },
  efficientqa: {
    what: 'EfficientQA: 1,800 and 1,769 newer questions like those of nq-open',
    licence: 'CC BY-SA 3.0',
    files: [
      {
        name: 'NQ-open.efficientqa.dev.1.1.jsonl',
        url: `${NQ}/NQ-open.efficientqa.dev.1.1.jsonl`,
        bytes: 194_998,
        sha256: '0ad45e2fa9fd32d10b3cf08c63e6d22f97ba1a0ce44ea98040f4c18bce7e268d',
      },
      {
        name: 'NQ-open.efficientqa.test.1.1.jsonl',
        url: `${NQ}/NQ-open.efficientqa.test.1.1.jsonl`,
        bytes: 595_322,
        sha256: 'c37b3cb2069632dfef219fa770d7910ac77ff6d12a08e8f3d5f058b388aca8a6',
      },
    ],
  },
  webquestions: {
    what: 'WebQuestions: 3,778 training and 2,032 test questions',
    licence: 'CC BY 4.0',
    files: [
      {
        name: 'webquestions.train.json',
        url: `${CODALAB}/0x4a763f8cde224c2da592b75f29e2f5c2/contents/blob/`,
        bytes: 825_320,
        sha256: 'fb1797e4554a1b1be642388367de1379f8c0d5afc609ac171492c67f7b70cb1e',
      },
      {
        name: 'webquestions.test.json',
        url: `${CODALAB}/0xe7bac352fce7448c9ef238fb0a297ec2/contents/blob/`,
        bytes: 447_645,
        sha256: 'e3d4550e90660aaabe18458ba34b59f2624857273f375af7353273ce8b84ce6e',
      },
    ],
    hub: hub('stanfordnlp/web_questions', 'main', 'data', ['train', 'test']),
  },
  curatedtrec: {
    what: "CuratedTREC, whose answers are regular expressions: DPR's training, dev and test questions",
    licence: 'CC BY-NC 4.0 (DPR); none is stated for the questions, which come from the TREC QA tracks',
    files: [
      dpr('data/retriever/biencoder-curatedtrec-train.json.gz'),
      dpr('data/retriever/biencoder-curatedtrec-dev.json.gz'),
      dpr('data/retriever/curatedtrec-test.qa.csv'),
    ],
  },
  triviaqa: {
    what: "TriviaQA, open: DPR's training, dev and test questions with their aliases",
    licence: 'CC BY-NC 4.0 (DPR); the questions are their authors’',
    files: [
      dpr('data/retriever/trivia-train.qa.csv.gz'),
      dpr('data/retriever/trivia-dev.qa.csv.gz'),
      dpr('data/retriever/trivia-test.qa.csv.gz'),
    ],
  },
  squad: {
    what: 'SQuAD 1.1: passages with 87,599 training and 10,570 dev questions',
    licence: 'CC BY-SA 4.0',
    files: [
      {
        name: 'train-v1.1.json',
        url: `${SQUAD}/train-v1.1.json`,
        bytes: 30_288_272,
        sha256: '3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955',
      },
      {
        name: 'dev-v1.1.json',
        url: `${SQUAD}/dev-v1.1.json`,
        bytes: 4_854_279,
        sha256: '95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9',
      },
    ],
    hub: hub('rajpurkar/squad', '7b6d24c440a36b6815f21b70d25016731768db1f', 'plain_text', [
      'train',
      'validation',
    ]),
  },
  'squad-v2': {
    what: 'SQuAD 2.0; questions without an answer are left out',
    licence: 'CC BY-SA 4.0',
    files: [
      {
        name: 'train-v2.0.json',
        url: `${SQUAD}/train-v2.0.json`,
        bytes: 42_123_633,
        sha256: '68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002',
      },
      {
        name: 'dev-v2.0.json',
        url: `${SQUAD}/dev-v2.0.json`,
        bytes: 4_370_528,
        sha256: '80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8',
      },
    ],
    hub: hub('rajpurkar/squad_v2', '3ffb306f725f7d2ce8394bc1873b24868140c412', 'squad_v2', [
      'train',
      'validation',
    ]),
  },
  'dpr-nq': {
    what: "Natural Questions in DPR's split: training, dev and test questions",
    licence: 'CC BY-SA 3.0',
    files: [
      dpr('data/retriever/nq-train.qa.csv'),
      dpr('data/retriever/nq-dev.qa.csv'),
      dpr('data/retriever/nq-test.qa.csv'),
    ],
  },
  scifact: {
    what: 'SciFact of BEIR: 5,183 abstracts, 1,109 claims and judgements (--qrels) of 300 for test and 809 for training',
    licence: 'CC BY-SA 4.0 (BEIR)',
    files: [
      { name: 'corpus.parquet', url: `${BEIR}/scifact/resolve/main/corpus/corpus-00000-of-00001.parquet` },
      { name: 'queries.parquet', url: `${BEIR}/scifact/resolve/main/queries/queries-00000-of-00001.parquet` },
      { name: 'test.tsv', url: `${BEIR}/scifact-qrels/resolve/main/test.tsv` },
      { name: 'train.tsv', url: `${BEIR}/scifact-qrels/resolve/main/train.tsv` },
    ],
  },
  wikipedia: {
    what: 'English Wikipedia of December 2018 as 21,015,324 passages of 100 words (DPR)',
    licence: 'CC BY-SA 3.0 (Wikipedia), CC BY-NC 4.0 (DPR)',
    files: [
      {
        ...dpr('wikipedia_split/psgs_w100.tsv.gz'),
        bytes: 4_694_541_059,
        sha256: 'c39b020c855a2b5c25ffef3abe4a3b6f9b829ad7dbc14ec3d163d34d7c53ea8d',
      },
    ],
  },
};
