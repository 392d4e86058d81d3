"""HorovodRunner as Databricks documents it, for machines that are not Databricks: real Horovod workers, started by
``horovod.spark.run`` in task slots, or by ``horovod.run`` on the driver's machine."""


class HorovodRunner:
    def __init__(self, *, np, driver_log_verbosity="log_callback_only"):
        self._np = np

    def run(self, main, **kwargs):
        if self._np < 0:
            import horovod

            return horovod.run(main, kwargs=kwargs, np=-self._np, use_gloo=True)[0]
        import horovod.spark

        return horovod.spark.run(main, kwargs=kwargs, num_proc=self._np, use_gloo=True, verbose=0)[0]
