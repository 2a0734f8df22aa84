import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { PROTOCOLS } from './answers/metrics.ts';
import type { ServeOptions } from './commands/serve.ts';
import type { CommonOptions, Context } from './pipeline/context.ts';
import type { GetOptions } from './pipeline/data.ts';
import type { AnswerEvalOptions, EvalOptions } from './pipeline/evaluate.ts';
import type { GatedStage } from './pipeline/gate.ts';
import type { InitOptions } from './pipeline/init.ts';
import type { Done } from './pipeline/next-command.ts';
import type { Stage } from './run/folder.ts';
import { explainSystemError, UserError } from './system/errors.ts';
import { releaseLocks } from './system/lock.ts';
import { warn } from './system/progress.ts';
import { STOPPED, stopMeans, stopNames } from './system/stop.ts';
import type { Which } from './train/checkpoints.ts';
import type { LoopResult } from './train/loop.ts';

interface AskOptions extends CommonOptions {
  openBook?: string;
  retrieveOnly?: true;
  /** Passages to print with --retrieve-only. */
  top: number;
}

interface TrainingOptions extends CommonOptions {
  resume: Which | 'none';
  refreshEvery?: string;
  yes: boolean;
}

// The command table. A command's code, and TensorFlow with it, is loaded when it runs and not before.

/** Runs one command line; the result is the exit code: 0 done, 2 the user's mistake, 1 a bug, 130 stopped by a signal. */
export async function main(argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  const program = new Command('realm')
    .description('Retrieval-augmented language model pre-training (REALM) on your own corpus')
    .version('0.1.0')
    .exitOverride();

  const command = (name: string, description: string, run = 'runs/default') =>
    withCommonOptions(
      (name.startsWith('eval ') ? evaluation : program)
        .command(name.replace('eval ', ''))
        .description(description),
      run,
    );
  /** Prints a result: one JSON document with --json, else the lines a person reads. */
  const print = (options: Pick<CommonOptions, 'json'>, result: unknown, lines: readonly string[]) => {
    process.stdout.write(
      options.json ? `${JSON.stringify(result)}\n` : lines.map((line) => `${line}\n`).join(''),
    );
  };
  /** Says which command comes next, on stderr: stdout is the result's alone. */
  const sayNext = async ({ run, config }: Pick<Context, 'run' | 'config'>, done: Done) => {
    const { nextCommands } = await import('./pipeline/next-command.ts');
    for (const line of nextCommands(run, config, done)) process.stderr.write(`next: ${line}\n`);
  };
  const trained = (options: CommonOptions, result: LoopResult) => {
    if (result.stopped) {
      exitCode = STOPPED;
      const next = result.step > 0 ? `resumes from step ${result.step}` : 'starts the stage again';
      print(options, result, [`stopped and saved; the same command ${next}`]);
    } else print(options, result, figureLines({ ...result.metrics, seconds: result.seconds }));
  };

  const yes = ['--yes', 'start it even if it takes days, or more memory than there is', false] as const;
  const training = (
    name: GatedStage,
    description: string,
    stage: Stage,
    load: () => Promise<(context: Context) => Promise<LoopResult>>,
  ) =>
    command(name, description)
      .addOption(
        new Option('--resume <checkpoint>', 'go on from this one: latest, best, a step, or none of them')
          .argParser(checkpoint)
          .default('latest'),
      )
      .option(...yes)
      .action(async (options: TrainingOptions) => {
        const { goBack, needStage, openRunForWork } = await import('./pipeline/context.ts');
        const train = await load();
        const { refreshEvery: every } = options;
        const set = every === undefined ? options.set : [...options.set, `qa.refreshEvery=${every}`];
        const { checkNeeds } = await import('./pipeline/gate.ts');
        const context = await openRunForWork({ ...options, set }, name, {
          settings: (run, config) => needStage(run, config, stage, options.resume),
          needs: options.yes
            ? undefined
            : (context) => checkNeeds(context, name, { again: options.resume === 'none' }),
        });
        goBack(context, stage, options.resume);
        stopMeans('what was saved is kept, and the same command resumes from it');
        const result = await train(context);
        trained(options, result);
        if (!result.stopped && stage !== 'closed-book') await sayNext(context, stage);
      });

  command(
    'prepare',
    'turn raw text into a run-ready corpus: vocabulary, blocks, sentences with salient spans',
  ).action(async (options: CommonOptions) => {
    const { openNewRun, prepareCorpus } = await import('./pipeline/prepare.ts');
    const { run, config } = await openNewRun(options);
    const prepared = await prepareCorpus(run, config);
    const { leftOutKinds: _, ...counts } = prepared; // stderr has the kinds
    print(options, prepared, figureLines(counts));
    await sayNext({ run, config }, 'prepare');
  });

  training(
    'ict-warmup',
    'warm the retriever up with the inverse cloze task',
    'ict-warmup',
    async () => (await import('./pipeline/ict-warmup.ts')).ictWarmup,
  );

  command('build-index', 'embed all documents and build the maximum-inner-product index')
    .addOption(
      new Option('--from <stage>', 'whose retriever (default: the newest)').choices([
        'initial',
        'ict-warmup',
        'pretrain',
      ]),
    )
    .option(...yes)
    .action(
      async (options: CommonOptions & { from?: 'initial' | 'ict-warmup' | 'pretrain'; yes: boolean }) => {
        const { openRunForWork } = await import('./pipeline/context.ts');
        const { buildRunIndex } = await import('./pipeline/build-index.ts');
        const { checkNeeds } = await import('./pipeline/gate.ts');
        const needs = options.yes ? undefined : (context: Context) => checkNeeds(context, 'build-index');
        const context = await openRunForWork(options, 'build-index', { needs });
        const manifest = await buildRunIndex(context, options.from);
        print(options, manifest, [
          `blocks             ${manifest.rows}${manifest.reused > 0 ? `, ${manifest.reused} with vectors of an earlier index` : ''}`,
          ...(manifest.recall10
            ? [
                `recall@10 of exact ${manifest.recall10.value.toFixed(3)} (${manifest.recall10.probes} probes)`,
                `${manifest.graphs.length > 1 ? `${manifest.graphs.length} graphs` : 'graph'}`.padEnd(19) +
                  `${manifest.dtype}, ${(manifest.graphs.reduce((sum, { bytes }) => sum + bytes, 0) / 2 ** 20).toFixed(1)} MiB`,
              ]
            : ['search             exact, without a graph']),
        ]);
        const { latestState } = await import('./train/checkpoints.ts');
        const begun = (stage: Stage) => latestState(context.run.checkpoint(stage)) !== undefined;
        await sayNext(
          context,
          begun('finetune-qa') ? 'finetune-qa' : begun('pretrain') ? 'pretrain' : 'build-index',
        );
      },
    );

  training(
    'pretrain',
    'train retriever and reader through retrieval, with a live index refresh',
    'pretrain',
    async () => (await import('./pipeline/pretrain.ts')).pretrain,
  );

  training(
    'finetune-qa',
    'fine-tune open-domain question answering with answer spans',
    'finetune-qa',
    async () => (await import('./pipeline/finetune-qa.ts')).finetuneQa,
  ).option(
    '--refresh-every <steps>',
    'train the document tower too, with a new index every so many steps (qa.refreshEvery)',
  );

  const evaluation = program.command('eval').description('evaluate a run, or what another system predicted');
  const questionsOption = [
    '--questions <file>',
    'file of questions (default: data.test, else data.dev)',
  ] as const;
  const protocol = () =>
    new Option(
      '--protocol <name>',
      'whose rules tell what is right (default: orqa for answers, dpr for blocks)',
    ).choices(PROTOCOLS);
  const rankings = (to: Command) =>
    to
      .option('--to <file>', 'write what was retrieved there too')
      .addOption(
        new Option('--format <name>', 'in whose form').choices(['dpr', 'trec', 'kilt']).default('dpr'),
      );
  for (const [metric, description] of [
    ['exact-match', 'exact match of the fine-tuned model, with F1 and recall; writes predictions.jsonl'],
    ['f1', 'the same, and --against compares F1'],
  ] as const)
    rankings(
      command(`eval ${metric}`, description)
        .option(...questionsOption)
        .addOption(protocol()),
    )
      .option('--against <run or file>', 'compare with the predictions of another run, or of a file')
      .addOption(
        new Option('--predictions <file>', 'score these predictions, without a model').conflicts('to'),
      )
      .action(async (options: CommonOptions & AnswerEvalOptions & { predictions?: string }) => {
        const { evalExactMatch, scorePredictions } = await import('./pipeline/evaluate.ts');
        const { answerLines } = await import('./commands/eval-lines.ts');
        const { openRun } = await import('./pipeline/context.ts');
        const result =
          options.predictions === undefined
            ? await evalExactMatch(await openRun(options, `eval ${metric}`), options, metric)
            : await scorePredictions(options.predictions, options, metric);
        print(options, result, answerLines(result));
      });
  rankings(
    command(
      'eval recall',
      "recall of a stage's retriever, before fine-tuning, beside BM25 and the inverse cloze task's",
    )
      .addOption(
        new Option(
          '--stage <stage>',
          'stage whose retriever; initial: the encoder as it was published (default: the last of these that the run has)',
        ).choices(['initial', 'ict-warmup', 'pretrain']),
      )
      .option(...questionsOption)
      .addOption(protocol()),
  )
    .addOption(
      new Option(
        '--retrieved <file>',
        "score what this file says was retrieved: DPR's .json, or a TREC run",
      ).conflicts('to'),
    )
    .action(
      async (
        options: CommonOptions &
          EvalOptions & {
            stage?: 'initial' | 'ict-warmup' | 'pretrain';
            retrieved?: string;
          },
      ) => {
        const { evalRecall, scoreRetrieved } = await import('./pipeline/evaluate.ts');
        const { recallLines } = await import('./commands/eval-lines.ts');
        const { openRun } = await import('./pipeline/context.ts');
        const result =
          options.retrieved === undefined
            ? await evalRecall(await openRun(options, 'eval recall'), options.stage, options)
            : await scoreRetrieved(options.retrieved, options.run, options);
        print(options, result, recallLines(result));
      },
    );
  for (const [metric, description] of [
    ['perplexity', 'perplexity of masked salient spans by the pretrained model, through retrieval'],
    [
      'utility',
      'retrieval utility: what retrieval is worth to the pretrained model, nats a masked word piece',
    ],
  ] as const)
    command(`eval ${metric}`, description)
      .option(
        '--sentences <file>',
        'sentences as in data.sentences (default: those that pretraining has not come to)',
      )
      .action(async (options: CommonOptions & { sentences?: string }) => {
        const { openRun } = await import('./pipeline/context.ts');
        const { evalMasked } = await import('./pipeline/evaluate.ts');
        const { maskedLines } = await import('./commands/eval-lines.ts');
        const result = await evalMasked(await openRun(options, `eval ${metric}`), metric, options.sentences);
        print(options, result, maskedLines(result));
      });

  const retrieveOnly = async (question: string | undefined, options: AskOptions) => {
    const { openRun } = await import('./pipeline/context.ts');
    const { passageLines, retrievePassages } = await import('./pipeline/retrieve.ts');
    const { text } = await import('node:stream/consumers');
    const context = await openRun(options);
    const lines = question === undefined ? (await text(process.stdin)).split(/\r?\n/) : [question];
    const questions = lines
      .map((line) => line.trim())
      .filter((line) => line !== '' || question !== undefined);
    if (questions.length === 0)
      throw new UserError('-: no question came on standard input; give one a line, or as an argument');
    // One JSON document a line where several questions come, as with answers.
    for (const found of await retrievePassages(context, questions, options.top))
      if (options.json && question === undefined) process.stdout.write(`${JSON.stringify(found)}\n`);
      else print(options, found, passageLines(found));
  };

  command('ask', 'answer a question from the fine-tuned run, or one a line of standard input')
    .argument('[question]', 'left out: asked for at a prompt, or read from standard input')
    .option('--open-book <file>', 'file or folder of documents to look in besides the corpus')
    .addOption(
      new Option(
        '--retrieve-only',
        'print the passages that the retriever finds and read no answer; needs an index, not a fine-tuned reader',
      ).conflicts('openBook'),
    )
    .option('--top <n>', 'how many passages to print with --retrieve-only', atLeastOne, 5)
    .action(async (question: string | undefined, options: AskOptions) => {
      const { openRun } = await import('./pipeline/context.ts');
      if (options.retrieveOnly) return retrieveOnly(question, options);
      const { ask, askedLines, askLines, painter } = await import('./commands/ask.ts');
      const context = await openRun(options);
      const { stdin: input, stdout: output } = process;
      if (question === undefined) {
        const answered = await askLines(context, { input, output, json: options.json }, options);
        if (answered === 0 && !input.isTTY)
          throw new UserError('-: no question came on standard input; give one a line, or as an argument');
      } else {
        const asked = await ask(context, question, options);
        print(options, asked, askedLines(asked, painter(output)));
      }
    });

  program
    .command('serve')
    .description("a run's report in the browser, kept up to date, with a box for questions")
    .option('--run <dir>', 'folder of the run', 'runs/default')
    .option(
      '--host <address>',
      'address to listen at; any but loopback lets other machines in, who need a token',
      '127.0.0.1',
    )
    .option('--port <n>', 'port to listen at; 0: any that is free', port, 8080)
    .option(
      '--token <token>',
      'token that every request needs (default: REALM_TOKEN; else, if others can reach the server, a new one that is printed). Other users of this machine may see it in the list of processes: prefer the variable REALM_TOKEN',
    )
    .option('--no-auth', 'no token: everyone who can reach the server is let in')
    .option(
      '--origin <url>',
      'public address of the server behind a proxy, such as https://realm.example; a token is then needed',
    )
    .option(
      '--rate-limit <n>',
      'requests a minute of one client; 0: no limit (default: 600 if others can reach the server, else no limit)',
      wholeNumber,
    )
    .addOption(engineOption())
    .option('--threads <n>', 'processor threads to compute with (default: all)', atLeastOne)
    .option('--json', 'print one JSON document on stdout, all else on stderr', false)
    .action(async (options: ServeOptions & { json: boolean }) => {
      const { serve } = await import('./commands/serve.ts');
      // A signal is the ordinary end of a server, with nothing left undone: 0, where a stage that it cuts short gives 130.
      await serve(options, (url) => print(options, { url }, [`${options.run} at ${url}; Ctrl-C stops`]));
    });

  command('demo', 'the whole lifecycle on a generated world, in minutes', 'runs/demo')
    .option(...yes)
    .action(async (options: CommonOptions & { yes: boolean }) => {
      const { demo, demoLines } = await import('./pipeline/demo.ts');
      const result = await demo(options);
      if (result === undefined) {
        exitCode = STOPPED;
        print(options, { stopped: true }, ['stopped and saved; the same command resumes from here']);
      } else {
        print(options, result, demoLines(result));
        const { runFolder } = await import('./run/folder.ts');
        const { loadConfig } = await import('./config.ts');
        const run = runFolder(options.run);
        await sayNext({ run, config: loadConfig(run.config, []) }, 'demo');
      }
    });

  command('ablate', "the paper's Table 2 on generated worlds: what each part is worth", 'runs/ablation')
    .option('--seeds <n>', 'how many, the first that of the settings', atLeastOne, 3)
    .option('--only <rows>', 'rows to measure, with commas between (default: all)')
    .option(...yes)
    .action(async (options: CommonOptions & { seeds: number; only?: string; yes: boolean }) => {
      const { ablate } = await import('./pipeline/ablate.ts');
      const { ablationLines } = await import('./eval/ablation.ts');
      const table = await ablate(options);
      if (table === undefined) {
        exitCode = STOPPED;
        print(options, { stopped: true }, ['stopped and saved; the same command resumes from here']);
        return;
      }
      const { report } = await import('./pipeline/report.ts');
      const { file } = report([options.run]); // the figure
      print(options, table, [...ablationLines(table), '', `figure: ${file}`]);
    });

  command(
    'import',
    "take published weights (model.initial) for a stage's, and their vectors of the blocks for the index",
  )
    .addOption(
      new Option('--stage <stage>', 'whose place they take')
        .choices(['ict-warmup', 'pretrain', 'finetune-qa'])
        .default('pretrain'),
    )
    .action(async (options: CommonOptions & { stage: 'ict-warmup' | 'pretrain' | 'finetune-qa' }) => {
      const { openRunForWork } = await import('./pipeline/context.ts');
      const { importStage } = await import('./pipeline/import.ts');
      const { withHubModels } = await import('./pipeline/hub-models.ts');
      const { runFolder } = await import('./run/folder.ts');
      const set = await withHubModels(runFolder(options.run), options);
      const context = await openRunForWork({ ...options, set }, 'import');
      const imported = await importStage(context, options.stage);
      print(options, imported, figureLines({ ...imported }));
      await sayNext(context, options.stage);
    });

  command('export', 'write what the run has trained as folders for Hugging Face transformers')
    .requiredOption('--to <folder>', 'where the folders go')
    .action(async (options: CommonOptions & { to: string }) => {
      const { openRun } = await import('./pipeline/context.ts');
      const { exportRealm } = await import('./pipeline/export.ts');
      const parts = await exportRealm(await openRun(options, 'export'), options.to);
      print(
        options,
        parts,
        parts.map(({ folder, loadedBy }) => `${folder.padEnd(32)} ${loadedBy}`),
      );
    });

  program
    .command('status')
    .description('what a run has, what is running in it, and what to run next; only reads')
    .argument('[run]', 'folder of the run (default: a line for each run in runs)')
    .option('--run <dir>', 'the same')
    .option('--json', 'print one JSON document on stdout', false)
    .action(async (named: string | undefined, options: { run?: string; json: boolean }) => {
      const { status, statusLines } = await import('./commands/status.ts');
      const run = named ?? options.run;
      const states = status(run);
      print(options, run === undefined ? states : states[0], statusLines(states));
    });

  program
    .command('config')
    .description('all settings with meaning, unit, default and source, or what a run has changed')
    .argument('[name]', 'one setting, or a group of them such as qa')
    .option('--run <dir>', 'show instead which settings of this run differ from the defaults')
    .option('--json', 'print one JSON document on stdout', false)
    .action(async (name: string | undefined, options: { run?: string; json: boolean }) => {
      const { describedSettings, runSettingLines, runSettings, settingLines } = await import(
        './commands/config.ts'
      );
      if (options.run === undefined) {
        const settings = describedSettings(name);
        return print(options, settings, settingLines(settings));
      }
      const names = new Set(describedSettings(name).map((setting) => setting.name));
      const changed = runSettings(options.run).filter((setting) => names.has(setting.name));
      print(options, changed, runSettingLines(changed));
    });

  program
    .command('report')
    .description('one HTML page about one or several runs: curves, evaluations, what was retrieved, examples')
    .argument('[runs...]', 'folders of runs; several are drawn over one another')
    .option('--run <dir>', 'folder of the run, where none is named as an argument', 'runs/default')
    .option('--to <file>', 'where the page goes (default: report.html in the first run)')
    .option('--json', 'print one JSON document on stdout', false)
    .action(async (runs: string[], options: { run: string; to?: string; json: boolean }) => {
      const { report } = await import('./pipeline/report.ts');
      const written = report(runs.length > 0 ? runs : [options.run], options.to);
      print(options, written, [`${written.file} (${(written.bytes / 1024).toFixed(0)} KiB)`]);
    });

  program
    .command('doctor')
    .description('what this machine offers; with settings, what a run will need, before it runs')
    .option(
      '--config <file>',
      'settings (YAML) of a run to estimate: parameters, memory, disk and time of each stage',
    )
    .option('--set <path=value>', 'change one setting; repeatable', collect, [])
    .option('--run <dir>', 'folder of the run: where disk is asked about, and its data counted once prepared')
    .option('--json', 'print one JSON document on stdout', false)
    .action(async (options: { config?: string; set: string[]; run?: string; json: boolean }) => {
      const { doctor, formatDiagnosis } = await import('./preflight/machine.ts');
      const { preflightInput, preflightLines, runPreflight } = await import('./pipeline/preflight.ts');
      const asked = options.config !== undefined || options.set.length > 0 || options.run !== undefined;
      const input = asked ? await preflightInput(options) : undefined;
      const diagnosis = await doctor(options.run);
      const report = input && (await runPreflight(input, diagnosis));
      print(options, { ...diagnosis, preflight: report }, [
        ...formatDiagnosis(diagnosis),
        ...(report ? preflightLines(report) : []),
      ]);
    });

  program
    .command('engine')
    .description('the native engine: install it, check what is installed, or remove it from this machine')
    .addArgument(
      new Argument('[action]', 'what to do').choices(['install', 'status', 'remove']).default('status'),
    )
    .addOption(new Option('--cuda', 'install the one that computes on an NVIDIA GPU').conflicts('cpu'))
    .option('--cpu', 'go back from that to the one that computes on the processor')
    .action(async (action: string, options: { cuda?: true; cpu?: true }) => {
      const { runEngineScript } = await import('./engine/install.ts');
      const flags = (['cuda', 'cpu'] as const).filter((name) => options[name]).map((name) => `--${name}`);
      if (flags.length > 0 && action !== 'install')
        throw new UserError(
          `engine ${action}: takes no ${flags[0]}; did you mean "realm engine install ${flags[0]}"?`,
        );
      exitCode = await runEngineScript(action, ...flags);
    });

  program
    .command('init')
    .description(
      'look at your own documents and questions, and write settings for them with the next commands',
    )
    .argument('[documents]', 'file or folder of documents')
    .argument(
      '[questions...]',
      'files of questions with answers: one, which is split, or several with train, dev and test in their names',
    )
    .option('--to <file>', 'configuration file to write', 'realm.yaml')
    .option(
      '--initial <folder>',
      'pretrained encoder to start from, a folder or hf:owner/name (default: random weights)',
    )
    .option(
      '--hours <n>',
      'time that all stages together may take (default: by the size of the corpus)',
      hours,
    )
    .option('--set <path=value>', 'your own choice of one setting; repeatable', collect, [])
    .option('--force', 'replace files that are there already', false)
    .option('--json', 'print one JSON document on stdout, all else on stderr', false)
    .action(
      async (
        documents: string | undefined,
        questions: string[],
        options: InitOptions & { json: boolean },
      ) => {
        const { init, initLines } = await import('./pipeline/init.ts');
        const result = await init(documents, questions, options);
        print(options, result, initLines(result));
      },
    );

  const data = program.command('data').description('published data sets');
  data
    .command('list')
    .description('what "realm data get" knows, with sizes and licences')
    .option('--json', 'print one JSON document on stdout', false)
    .action(async (options: { json: boolean }) => {
      const { dataLines } = await import('./commands/data.ts');
      const { CATALOGUE } = await import('./datasets/catalogue.ts');
      print(options, CATALOGUE, dataLines());
    });
  data
    .command('get')
    .description('fetch a data set, or go on fetching it, and compare it with its published checksum')
    .argument('<name>')
    .option('--to <dir>', 'folder in which it gets one of its own', 'data')
    .option('--mirror <url>', 'address of a folder that holds its files, instead of the official one')
    .option('--from <path>', 'its file, or a folder with its files, that you have already')
    .option('--json', 'print one JSON document on stdout, all else on stderr', false)
    .action(async (name: string, options: GetOptions & { json: boolean }) => {
      const { getData } = await import('./pipeline/data.ts');
      const placed = await getData(name, options);
      print(
        options,
        placed,
        placed.map(({ path, how }) => `${path} (${how})`),
      );
    });
  data
    .command('resplit')
    .description("split training questions into ORQA's training and dev sets, by the hash of each question")
    .argument('<file>')
    .option('--to <dir>', 'folder of the two files', '.')
    .option('--json', 'print one JSON document on stdout, all else on stderr', false)
    .action(async (file: string, options: { to: string; json: boolean }) => {
      const { resplitQuestions } = await import('./pipeline/data.ts');
      const result = await resplitQuestions(file, options.to);
      print(options, result, figureLines({ ...result }));
    });

  program.hook('preAction', (_, action) => {
    const name = action.parent === program ? action.name() : `${action.parent?.name()} ${action.name()}`;
    stopNames(name);
    stopMeans('the same command starts again');
  });
  eachCommand(program, (command, name) => command.showHelpAfterError(`(see ${name} --help)`));

  try {
    await program.parseAsync(argv as string[]);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // commander has said it already
    const sentence = error instanceof UserError ? error.message : explainSystemError(error);
    if (sentence !== undefined) {
      warn(`realm: ${sentence}`);
      return 2;
    }
    warn(`${(error as Error)?.stack ?? error}\nrealm: this is a bug; please report it with the lines above`);
    return 1;
  } finally {
    releaseLocks();
  }
}

/** Calls `work` with a command and all below it, each with its whole name, such as `realm data get`. */
function eachCommand(command: Command, work: (command: Command, name: string) => void, above = ''): void {
  const name = `${above}${command.name()}`;
  work(command, name);
  for (const below of command.commands) eachCommand(below, work, `${name} `);
}

function collect(value: string, all: string[]): string[] {
  return [...all, value];
}

function withCommonOptions(command: Command, run: string): Command {
  return command
    .option(
      '--config <file>',
      'settings of a new run: a YAML file, or one that comes with realm such as squad-open',
    )
    .option('--set <path=value>', 'change one setting; repeatable', collect, [])
    .option('--run <dir>', 'folder of the run', run)
    .option('--seed <n>', 'seed of everything random', wholeNumber)
    .addOption(engineOption())
    .option('--threads <n>', 'processor threads to compute with (default: all)', atLeastOne)
    .option('--json', 'print one JSON document on stdout, all else on stderr', false);
}

function engineOption(): Option {
  const option = new Option('--engine <name>', 'what computes')
    .choices(['auto', 'tensorflow', 'webgpu', 'wasm', 'cpu'])
    .default('auto');
  const choose = option.parseArg!;
  return option.argParser((value, previous) => {
    if (['cuda', 'gpu'].includes(value))
      throw new InvalidArgumentError(
        'NVIDIA GPUs belong to tensorflow, installed with: realm engine install --cuda',
      );
    return choose(value, previous as string);
  });
}

function checkpoint(value: string): Which | 'none' {
  if (value === 'latest' || value === 'best' || value === 'none') return value;
  if (!/^\d{1,15}$/.test(value))
    throw new InvalidArgumentError('expected latest, best, none, or the step of a checkpoint');
  return Number(value);
}

function wholeNumber(value: string): number {
  const n = Number(value);
  if (!/^\d+$/.test(value) || !Number.isSafeInteger(n))
    throw new InvalidArgumentError('expected a whole number');
  return n;
}

function hours(value: string): number {
  const n = Number(value);
  if (!/^\d*\.?\d+$/.test(value) || n <= 0)
    throw new InvalidArgumentError('expected a number above 0, such as 0.5');
  return n;
}

function port(value: string): number {
  const n = wholeNumber(value);
  if (n > 65_535) throw new InvalidArgumentError('expected 0 to 65535');
  return n;
}

function atLeastOne(value: string): number {
  const n = wholeNumber(value);
  if (n < 1) throw new InvalidArgumentError('expected 1 or more');
  return n;
}

function figureLines(figures: Record<string, unknown>): string[] {
  return Object.entries(figures).map(([name, value]) => {
    const words = name.replace(/[A-Z]/g, (c) => ` ${c.toLowerCase()}`);
    return `${words.padEnd(20)} ${typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(4) : value}`;
  });
}
