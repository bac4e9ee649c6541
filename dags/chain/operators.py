"""The two kinds of task there are: a call of the command, and a spark-submit.

Both know their day and the stages they make, so that lineage and alerts can name them. Both end with their supervisor
and take what they started with them (pipeline.lifeline). Neither repeats a call that is wrong.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator, Context
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.chain.command import WRONG_CALL, Command, Ended
from dags.chain.deployment import Deployment
from dags.chain.names import SPARK_CONNECTION
from pipeline.lifeline import VARIABLE, end_with

if TYPE_CHECKING:
    from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

RUN_ID = "MSD_RUN_ID"


class MsdOperator(BaseOperator):
    """Calls the command for a day; returns what it printed as JSON, if it did."""

    template_fields: Sequence[str] = ("arguments", "repeated", "date", "when")
    template_fields_renderers = {"repeated": "json"}  # noqa: RUF012 (Airflow declares it so)

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        command: Sequence[str],
        work: str,
        date: str = "",
        repeated: Mapping[str, str] | None = None,
        when: str = "True",
        stages: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Takes the call apart, since no shell puts it together.

        Args:
            arguments: of the command; one that renders to nothing is left out.
            command: how it is called.
            work: the work folder.
            date: the day, templated; empty where the call is about none.
            repeated: option → template of a JSON list; the option is given once for each element.
            when: template of True or False; nothing is called where it says False, and the task has succeeded.
            stages: datasets the task makes, for lineage.
            **kwargs: of every operator.
        """
        super().__init__(**kwargs)
        self.arguments = arguments
        self.command = command
        self.work = work
        self.date = date
        self.repeated = repeated
        self.when = when
        self.stages = stages
        self._running: Command | None = None
        self._answer: dict[str, Any] | None = None

    def call(self) -> list[str]:
        """The words of the call, its templates rendered."""
        words = [*self.command, *(word for word in self.arguments if word)]
        for option, values in (self.repeated or {}).items():
            words += [f"{option}={value}" for value in json.loads(values)]
        if self.date:
            words.append(f"--date={self.date}")
        return [*words, f"--work={self.work}"]

    def execute(self, context: Context) -> Any:
        """Runs the command to its end.

        Raises:
            AirflowFailException: the call is wrong, or the command answered and its answer is no.
            AirflowException: it failed; another try goes on where it was.
        """
        if self.when != "True":
            self.log.info("There is nothing to do in this run")
            return None
        end_with(os.getppid())
        self._running = Command(self.call(), {RUN_ID: _run_id(context)}, self.work)
        self.log.info("Running %s", self.call())
        try:
            ended = self._running.run(self.log.info)
        except FileNotFoundError as error:
            raise AirflowFailException(f"{error}; MSD_COMMAND says how the command is called") from error
        self._answer = ended.answer
        if ended.exit_code:
            raise _failure(ended)
        return ended.answer

    def on_kill(self) -> None:
        """Ends the command when the task times out or is stopped by hand."""
        if self._running is not None:
            self._running.stop()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The datasets the task read and made, for Airflow's OpenLineage provider."""
        from dags.chain.lineage import lineage_of

        return lineage_of(self.stages, self.work, self.date, (self._answer or {}).get("stages"))


class FinishOperator(MsdOperator):
    """Collects the counts and places of the day's datasets, fails where one is not there, and hands them on."""

    def execute(self, context: Context) -> Any:
        """Returns the manifests of the DAG's stages, which also ride on the asset's event."""
        made = (super().execute(context) or {}).get("stages", {})
        missing = [stage for stage in self.stages if stage not in made]
        if missing:
            again = f"msd run {' '.join(missing)} --date {self.date} --work {self.work}"
            raise AirflowException(f"{', '.join(missing)} of {self.date} should be there and is not; run: {again}")
        manifests: dict[str, Any] = {"date": self.date, "stages": {stage: made[stage] for stage in self.stages}}
        for asset in self.outlets:
            if isinstance(asset, Asset):
                context["outlet_events"][asset].extra = manifests
        return manifests


class SparkStageOperator(BaseOperator):
    """Submits the job of one stage or of several for a day, through Airflow's SparkSubmitOperator.

    That operator is imported when the task runs: its module brings Kubernetes' clients along, a second that every parse
    of a file and every start of a task would pay.
    """

    template_fields: Sequence[str] = ("application", "application_args", "date")

    def __init__(self, *, application: str, stages: Sequence[str], where: Deployment, date: str, **kwargs: Any) -> None:
        """Takes the job's file, the stages it makes, and the day; the file of one stage is not told which."""
        super().__init__(**kwargs)
        self.application = application
        named = stages if len(stages) > 1 else ()
        self.application_args = [*named, f"--date={date}", f"--work={where.work}"]
        self.stages = stages
        self.where = where
        self.work = where.work
        self.date = date
        self._submitting: SparkSubmitOperator | None = None

    def submitting(self) -> "SparkSubmitOperator":
        """Airflow's operator for this job, its templates rendered."""
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        return SparkSubmitOperator(
            task_id=self.task_id,
            conn_id=SPARK_CONNECTION,
            application=self.application,
            application_args=self.application_args,
            py_files=self.where.py_files,
            archives=self.where.archives,
            # Spark says every task it deals at INFO; what a person looks for in a task log would drown.
            conf={"spark.log.level": "WARN"},
            name=f"msd {self.task_id} {self.date}",
        )

    def execute(self, context: Context) -> None:
        """Submits the job and waits for it.

        Raises:
            AirflowFailException: the call is wrong.
            AirflowException: the job failed.
        """
        end_with(os.getppid())
        # spark-submit and the driver inherit it; a driver on another machine does not, and is Spark's to look after.
        os.environ[VARIABLE] = str(os.getpid())
        os.environ[RUN_ID] = _run_id(context)
        self._submitting = self.submitting()
        try:
            # The word by which Airflow knows that one operator is run by another on purpose.
            known = {"SparkSubmitOperator__sentinel": ExecutorSafeguard.sentinel_value}
            self._submitting.execute(context, **known)  # type: ignore[arg-type]
        except AirflowException as error:
            if f"Error code is: {WRONG_CALL}." in str(error):
                raise AirflowFailException(str(error)) from error
            raise

    def on_kill(self) -> None:
        """Ends spark-submit when the task times out or is stopped by hand."""
        if self._submitting is not None:
            self._submitting.on_kill()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The datasets the job read and made, for Airflow's OpenLineage provider."""
        from dags.chain.lineage import lineage_of

        return lineage_of(self.stages, self.work, self.date)


def _run_id(context: Context) -> str:
    instance = context["ti"]
    return f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.try_number}"


def _failure(ended: Ended) -> AirflowException:
    said = f"the command ended with exit code {ended.exit_code}: {ended.last_line}"
    if ended.exit_code == WRONG_CALL:
        return AirflowFailException(said)
    if ended.answer is not None:
        # A closed gate has answered: asked again, it would say the same.
        return AirflowFailException(said)
    return AirflowException(said)
