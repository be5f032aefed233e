"""Defines `tfppo sft`, `tfppo pretrain` and `tfppo reward-model`, which train models that PPO for text uses."""

from dataclasses import dataclass, field

from tfppo.cli.startup import import_tensorflow
from tfppo.text.config import NewModelConfig
from tfppo.text.pretrain.config import CorpusModelConfig, PretrainConfig, PretrainRunConfig
from tfppo.text.reward_model.config import RewardModelConfig, RewardModelRunConfig
from tfppo.text.sft.config import SFTConfig, SFTRunConfig
from tfppo.text.supervised.config import TuningRunSettings, no_data


@dataclass(frozen=True)
class Sft:
    """Tune a language model on examples by supervised fine-tuning.

    Give --data FILE, or --task NAME for the examples of a task. The folder preset of the run holds the tuned model, for
    `tfppo train text --preset`.
    """

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    sft: SFTConfig = field(default_factory=SFTConfig)
    model: NewModelConfig = field(default_factory=NewModelConfig)

    def __call__(self) -> None:
        """Tunes the language model.

        Raises:
          UsageError: If a setting or an example is invalid, or a folder cannot be used.
        """
        config = SFTRunConfig(self.run, self.sft, self.model)
        if config.sft.data is None and config.sft.task is None:
            raise no_data()
        import_tensorflow(self.run.onednn, language_model=True)
        from tfppo.text.sft.run import sft_run

        sft_run(config)


@dataclass(frozen=True)
class Pretrain:
    """Train a language model on the shipped corpus, and save it as a preset for `tfppo train text`."""

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    model: CorpusModelConfig = field(default_factory=CorpusModelConfig)

    def __call__(self) -> None:
        """Trains the language model.

        Raises:
          UsageError: If a setting is invalid, or a folder cannot be used.
        """
        config = PretrainRunConfig(self.run, self.pretrain, self.model)
        import_tensorflow(self.run.onednn, language_model=True)
        from tfppo.text.pretrain.run import pretrain_run

        pretrain_run(config)


@dataclass(frozen=True)
class RewardModel:
    """Train a reward model on comparisons or ratings of texts.

    Give --data FILE; without it the examples are the human ratings of movie sentences that are shipped with tfppo. The
    folder of the run is for `tfppo train text --reward-model`.
    """

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)

    def __call__(self) -> None:
        """Trains the reward model.

        Raises:
          UsageError: If a setting or an example is invalid, or a folder cannot be used.
        """
        config = RewardModelRunConfig(self.run, self.reward_model)
        import_tensorflow(self.run.onednn, language_model=True)
        from tfppo.text.reward_model.run import reward_model_run

        reward_model_run(config)
