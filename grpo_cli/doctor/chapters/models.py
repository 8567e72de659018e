"""Chapters of the guide: models."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "tokenizer",
        "A tokenizer does not load",
        "A model's tokenizer belongs to it as its weights do: ids mean what they were trained to mean, "
        "so no other one can stand in for a file that is damaged, and none is put in silently.\n\n"
        "nanochat keeps its own as a pickle, which is a program; it is read as data here, nothing in it "
        "is run, and what a damaged or foreign file holds is refused by name.",
        "Fetch only that file again: `hf download OWNER/NAME tokenizer.pkl --force-download`, or into a "
        "folder with `--local-dir FOLDER`. Each run of nanochat trains its own tokenizer: take the one "
        "of the same run.\n"
        "Look at it: `grpo doctor --only tokenizer --model FOLDER` counts its tokens and makes tricky "
        "texts ids and text again.\n"
        "Do not put another tokenizer in its place: the model then loads, and all it says is garbage.",
        (
            "Failed to load tiktoken tokenizer: Pickle file corrupted",
            "Failed to load tiktoken tokenizer: …",
            "The tokenizer in … cannot be loaded: …",
        ),
    ),
    Chapter(
        "own-code",
        "A folder brings code that is not run",
        "A model's folder, a checkpoint and a run can come from anybody, and several of their files can "
        "name code: `auto_map` and `tokenizer_class` for transformers, `model_file` for mlx-lm, "
        "`reward_functions` in a run's config.toml. To run it is to give its author this computer.\n\n"
        "So a model runs by a class that mlx-lm or grpo has for its `model_type`, a tokenizer by one that "
        "transformers has, and a reward in a file where a person named it: in a configuration given on the "
        "command line or in `$MLX_GRPO_CONFIG`, or by `--set`. What is written here names no code but ours.",
        "A model with code of its own: look for a version that mlx-lm knows; `mlx-community` on the hub has "
        "many.\n"
        "A tokenizer with code of its own: read the code, then `grpo convert FOLDER --trust-remote-code` "
        "runs it once and writes a folder whose tokenizer needs none.\n"
        "A run from another computer whose rewards are in a file: read the file, then name it: `grpo resume "
        "RUN --set 'reward_functions=[\"my/rewards.py:short\"]'`. Here it is known from then on.",
        (
            "The model in … needs code of its own: `model_file` is …",
            "The tokenizer in … needs code of its own, which is not run",
            "`tokenizer_class` of the model in … is …, which is not on the list of what may be loaded",
            "The configuration in … names code that nobody named on this computer: …",
        ),
    ),
    Chapter(
        "model-forward",
        "A model computes something else in a batch, or with a cache",
        "Completions are sampled token by token with a cache, many at once, and trained in batches of "
        "unlike length. Both must give what one whole sequence gives without a cache: otherwise every "
        "update is that of another policy. Some classes of mlx-lm do not, and nothing would show it.\n\n"
        "So before a run or an evaluation two short prompts are computed in each way and compared, in "
        "training with their gradient. The quickest way that is right is taken: prompts of any length "
        "together, those of equal length, or rows one by one. Where none is, the message has the numbers.",
        "Choose a model of another kind: llama, qwen2, qwen3, gemma3, mistral, smollm3, nanochat are right.\n"
        "A newer mlx-lm may compute it rightly: `pip install -U mlx-lm`, then `grpo train --config FILE "
        "--dry-run`.\n"
        "Layers that keep a state in place of keys and values (Mamba, gated delta nets, short "
        "convolutions) are not tuned yet.",
        (
            "… cannot be tuned here: in sampling its logprobs are not those of single rows …",
            "… has layers that keep a state (…) in place of keys and values, and cannot be sampled …",
        ),
    ),
    Chapter(
        "vocabulary",
        "The tokenizer is another model's",
        "A token id is the number of a row in the model's tables: a tokenizer with more ids than there "
        "are rows asks for rows that do not exist, and MLX answers with whatever lies there, without an "
        "error.\n\n"
        "So such a tokenizer is refused before anything runs. nanochat's has exactly as many tokens as "
        "the model, 65536 for d20, d32 and d34; other models may have rows to spare, because tables are "
        "rounded up for the hardware.",
        "Take the tokenizer's files from the same model, all of them together: `hf download OWNER/NAME "
        "tokenizer.json tokenizer_config.json --local-dir FOLDER`, and for nanochat `tokenizer.pkl` "
        "from the folder of the same run.\n"
        "Then `grpo doctor --only tokenizer --only garbled-output --model FOLDER`: the counts can agree "
        "by accident, the perplexity cannot.",
        (
            "The tokenizer in … has … tokens, the model …",
            "The tokenizer in … has … ids, the model only … rows",
        ),
    ),
    Chapter(
        "round-trip",
        "Text does not come back from the tokenizer",
        "Rewards read what the tokenizer makes of ids, and prompts are what it makes of text: letters "
        "that are lost on the way exist for neither.\n\n"
        "Tokenizers that normalise white space or accents are usual and harmless; one that loses plain "
        "letters, digits or signs is damaged, or has a vocabulary that was made for a few letters only.",
        "Fetch the tokenizer's file again, from the same model.\n"
        "A tokenizer that is meant to know few letters: see that your prompts and answers use no "
        "others.",
    ),
    Chapter(
        "special-tokens",
        "A special token is missing, or more than one id",
        "Special tokens mark who speaks and where an answer ends.\n\n"
        "Where one of them is cut into ordinary pieces, the model sees a prompt that it was never "
        "trained on; where two share an id, or the id has no row, it cannot tell them apart. In "
        "nanochat a special token's spelling that a user types must stay text.",
        "tokenizer.json, tokenizer_config.json and special_tokens_map.json must be of one model: fetch "
        "them together.\n"
        "Tokens that were added to a tokenizer need rows in the model, too.",
    ),
    Chapter(
        "end-tokens",
        "Completions do not end",
        "A completion ends when the model says its end token.\n\n"
        "Where that is not known, or is another one than the chat template ends a turn with, every "
        "completion runs until `max_new_tokens`: it costs several times the time, and the answer is "
        "followed by an invented conversation.",
        "Name it in generation_config.json (or config.json) of the model's folder, with all of them: "
        '`"eos_token_id": [2, 0]`.\n'
        "See whether completions end: `truncated_fraction` in the log, or `grpo doctor --run "
        "outputs/NAME`.",
    ),
    Chapter(
        "chat-template",
        "A conversation does not become the prompt that the model knows",
        "An instruct model was trained on conversations in one exact form, and its template writes it.\n\n"
        "A template that refuses a system message fails on every example, and one that does not end "
        "where the assistant speaks makes the model go on with the question. A base model has no "
        "template: its prompts are the messages' texts, one paragraph each.",
        'A template without a system role: `system_prompt = ""`, or put its text into the question.\n'
        "A lost one: fetch tokenizer_config.json and chat_template.jinja again, from the same model.\n"
        'See a prompt: `grpo generate --model FOLDER --prompt "What is 2 + 2?"`.',
        (
            "The model's chat template refuses a conversation of system, user: …",
            "nanochat's chat format has no role …",
        ),
    ),
    Chapter(
        "model-files",
        "A file of a model is missing, cut off or not the file itself",
        "A model is config.json, its weights and its tokenizer, and a folder that lacks a part of them "
        "cannot be loaded.\n\n"
        "A download that broke off leaves a file shorter than its own header says; a git clone without "
        "Git LFS leaves a text of three lines in place of each large file; and a file of an earlier "
        "download or conversion is loaded along with the others, because every model*.safetensors is.",
        "Fetch only the file that is named: `hf download OWNER/NAME FILE --force-download`.\n"
        "After `git clone`: `git lfs install` and `git lfs pull` in that folder.\n"
        "A stale file: move it away.\n"
        "Weights as .bin, .pt or nanochat's own: `grpo convert SOURCE`.",
        (
            "… is not a model folder: config.json is missing",
            "… holds no weights (model*.safetensors)",
            "[load_safetensors] …",
        ),
    ),
    Chapter(
        "model-weights",
        "The weights do not fit config.json",
        "Weights are loaded strictly: every name and shape that config.json asks for must be there, and "
        "no other.\n\n"
        "Loading the rest and leaving a layer at random numbers would train for a night on noise. They "
        "differ where files of two models lie in one folder, where a conversion is of another version, "
        "or where adapters belong to another base.",
        "Fetch config.json and the weights again, both of the same model.\n"
        "nanochat's own checkpoint under other names: `grpo convert SOURCE --rename 'OLD.*=NEW.*'`.\n"
        "Adapters: adapter_config.json names the model that they were trained on; PEFT's are merged into "
        "their model first.\n"
        "Weights of bitsandbytes (`…-bnb-4bit`): take the original and `grpo convert OWNER/NAME --quantize`.",
        (
            "The weights in … do not fit its config.json: Missing … parameters",
            "Received … parameters not in model",
            "The adapters in … do not fit …",
            "… holds adapters of PEFT",
            "The weights in … are quantised by another library",
            "The model in … does not run as its config.json has it",
        ),
    ),
    Chapter(
        "model-values",
        "A weight is not a number, or a token's row is empty",
        "One NaN spreads to everything that is computed from it: logits, probabilities, the loss and "
        "then all the weights.\n\n"
        "A row of zeros is harmless where no text becomes its id, which is how vocabularies are rounded "
        "up; for a token that text does become, the model is blind.",
        "An own checkpoint: take an earlier one, and lower the learning rate (`learning_rate = 1e-6`).\n"
        "A model of others: fetch the file again. Converted with `--dtype float16`? Numbers above 65504 "
        "are infinite there: `--dtype bfloat16`.",
        (
            "The weights in … are broken: … holds NaN or infinite numbers",
            "The model in … answers with logits that are not numbers",
        ),
    ),
    Chapter(
        "garbled-output",
        "What the model says is no language",
        "The model gives plain English less likelihood than it should, and what it says is a jumble of "
        "pieces of words.\n\n"
        "Nearly always the tokenizer is another model's: its ids mean other words to the weights, so "
        "that everything loads and runs, and nothing is right. Damaged weights and quantisation to too "
        "few bits look the same. Perplexity tells them from a model that is merely weak: 15 for a good "
        "model of 135 million parameters, 70 at 3 bits, thousands with another tokenizer; guessing has "
        "that of the vocabulary's size.",
        "Take the tokenizer from where the weights come from, the same repository or the same nanochat "
        "run: `hf download OWNER/NAME tokenizer.pkl --local-dir FOLDER`.\n"
        "n_vocab must be 65536 for nanochat-d20, d32 and d34: `grpo doctor --only vocabulary --model "
        "FOLDER`.\n"
        "Weights: `grpo doctor --only model --model FOLDER` looks at files, shapes and numbers.\n"
        "Rounded too far: more bits, or none (`grpo doctor --only quantisation --model FOLDER` measures "
        "it).\n"
        'Try it: `grpo generate --model FOLDER --prompt "The capital of France is"`.',
        (
            "M don yourty youon insOifissty youon insM don features T...",
            "garbled output",
            "gibberish",
        ),
    ),
    Chapter(
        "quantisation",
        "How many bits?",
        "Weights rounded to fewer bits take less memory and, where products wait for memory, less time; "
        "what they cost in quality differs from model to model, and small models lose more.\n\n"
        "So it is measured on your model and your machine: size, tokens a second, perplexity, tokens "
        "that stay the same and, with a configuration, accuracy. With SmolLM2-135M-Instruct perplexity "
        "rises from 15.0 to 15.5 at 6 bits, 18.7 at 4, 70 at 3, and 2 bits are noise.",
        "`grpo doctor --only quantisation --model FOLDER --config FILE` prints the table and the fewest "
        "bits that are as good as the weights.\n"
        "A quantised model: `grpo convert SOURCE --quantize --bits 4`.\n"
        "On a CPU quantised products are slower than float32 ones, so models are unpacked there.",
        (
            "bits = 4, group_size = 64",
            "which quantisation?",
        ),
    ),
)
