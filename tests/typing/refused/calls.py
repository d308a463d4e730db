"""Calls that a type checker must refuse; each line says with which code."""

from pgtask import App, JobContext, task

app = App("refused")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
def charge(context: JobContext, order: int) -> str:
    return str(order)


@task(queue="mail")
def send(to: str, *, subject: str) -> None: ...


add.delay()  # E: call-arg
add.delay("2")  # E: arg-type
add.delay(1, 2, 3)  # E: call-arg
add.delay(1, z=2)  # E: call-arg
add("2")  # E: arg-type
fetch.delay(1)  # E: arg-type
send.delay("ada")  # E: call-arg
send.delay("ada", subject=1)  # E: arg-type
send.options(priority=9).delay(7, subject="x")  # E: arg-type
send.using(object()).delay(to="x")  # E: call-arg
charge.delay(JobContext(id=1, task="x"), 7)  # E: call-arg, arg-type
charge.delay("7")  # E: arg-type
text: str = add.delay(1).get()  # E: assignment
blob: str = fetch.delay("x").get()  # E: assignment

add.s("2")  # E: arg-type
app.periodic("@daily")(len)  # E: type-var


async def twins() -> None:
    await add.adelay("2")  # E: arg-type
    await fetch.adelay()  # E: call-arg
    add.adelay(1).get()  # E: attr-defined
