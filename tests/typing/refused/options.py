"""Options that a type checker must refuse; each line says with which code."""

from pgtask import App, JobContext

app = App("refused")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


add.options(priorty=9)  # E: call-arg
add.options(priority="high")  # E: arg-type
add.options(max_retries=3)  # E: call-arg
add.options(name="x")  # E: call-arg
add.options(on_conflict="drop")  # E: arg-type
add.options(countdown="60")  # E: arg-type
add.apply_async((1,), task_id="x")  # E: call-arg
add.apply_async((1,), queue=7)  # E: arg-type
app.enqueue("x", [1], max_retries=1)  # E: call-arg


@app.task(max_retries=3)  # E: call-overload, untyped-decorator
def wrong_option() -> None: ...


@app.task(bind=True)  # E: arg-type
def wrong_context(order: int) -> None: ...


@app.task(retry_for=("OSError",))  # E: arg-type
def wrong_exceptions(context: JobContext) -> None: ...
