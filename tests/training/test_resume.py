"""Runs that are killed at any moment, and go on as if nothing had been."""

import random as plain_random
import signal
import textwrap
import time

import numpy as np
import pytest
from runs import assert_same, data, finish, fit, names, net, start

from backprop_xp import Net
from backprop_xp.training import SGD, Adam, CheckpointError, RMSprop, load_parameters
from backprop_xp.training.checkpoints import Folder

#: A run of 60 steps with everything that has a state; its arrays come from files if there is a second argument.
PROGRAM = textwrap.dedent(
    """
    import os, signal, sys
    import numpy as np
    from backprop_xp import Net
    from backprop_xp.training import Adam, Cosine, EarlyStopping, WarmUp

    folder = sys.argv[1]
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 3))
    y = np.sin(x[:, :2])
    if len(sys.argv) > 2:
        x, y = (np.load(os.path.join(sys.argv[2], name), mmap_mode="r") for name in ("x.npy", "y.npy"))
    net = Net((3, 8, 2), loss="mse", reduction="mean", bias=True, rng=7, backend="numpy")
    {before}
    history = net.fit(
        x, y, epochs=5, batch_size=8, seed=3, optimiser=Adam(lr=0.02, amsgrad=True),
        schedule=WarmUp(10) * Cosine(60), clip_norm=1.0, l2=1e-3, validation=(x[:20], y[:20]),
        early_stopping=EarlyStopping(3), checkpoint=folder, checkpoint_every={every}, resume=True,
        callbacks=[lambda net, epoch: setattr(net, "seen", epoch.number)],
    )
    losses = [(epoch.loss, epoch.validation_loss) for epoch in history.epochs]
    print(b"".join(p.data.tobytes() for p in net.parameters).hex(), losses, history.best)
    """
)


def program(every=3, before=""):
    return PROGRAM.format(every=every, before=before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return finish(program(), tmp_path_factory.mktemp("whole"))


class TestKilled:
    @pytest.mark.parametrize("memmap", [False, True])
    def test_again_and_again_at_any_moment(self, tmp_path, uninterrupted, memmap):
        """Every process makes a few steps, some of which write a checkpoint, and dies by kill -9 in the middle."""
        arguments = [tmp_path / "run"]
        if memmap:
            random = np.random.default_rng(0)
            x = random.normal(size=(96, 3))
            np.save(tmp_path / "x.npy", x)
            np.save(tmp_path / "y.npy", np.sin(x[:, :2]))
            arguments.append(tmp_path)
        moments = plain_random.Random(1 + memmap)
        # killed after so many calls of loss_and_grad in this process, by itself: the moment is not a matter of speed
        before = textwrap.dedent(
            """
            calls, compute = int(os.environ["CALLS"]), net.loss_and_grad
            def counted(*a, **k):
                global calls
                calls -= 1
                if calls == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return compute(*a, **k)
            net.loss_and_grad = counted
            """
        )
        died = 0
        for _ in range(30):
            process = start(program(before=before), *arguments, CALLS=str(moments.randint(4, 17)))
            out, err = process.communicate(timeout=120)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            died += 1
        assert died >= 4
        assert out == uninterrupted

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_between_writing_and_renaming(self, tmp_path, uninterrupted, call):
        """kill -9 when the third checkpoint is written and not renamed yet."""
        before = textwrap.dedent(
            f"""
            count, real = 0, os.{call}
            def {call}(*a):
                global count
                count += 1
                if count == (5 if "{call}" == "fsync" else 3):  # a checkpoint takes two fsyncs
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*a)
            os.{call} = {call}
            """
        )
        process = start(program(before=before), tmp_path)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert [name for name in names(tmp_path) if name.startswith("checkpoint")] == [
            "checkpoint-000000000003.npz",
            "checkpoint-000000000006.npz",
        ]
        assert any(name.startswith("writing-") for name in names(tmp_path))
        assert finish(program(), tmp_path) == uninterrupted
        assert not any(name.startswith("writing-") for name in names(tmp_path))

    def test_in_the_middle_of_a_write(self, tmp_path, uninterrupted):
        """The system ends the process when half of a checkpoint is in the file."""
        assert "checkpoint-000000000006.npz" in names_after(tmp_path, steps_before_limit=2)
        halves = [path for path in tmp_path.iterdir() if path.name.startswith("writing-")]
        assert halves and halves[0].stat().st_size == 2000
        assert finish(program(), tmp_path) == uninterrupted

    def test_by_a_clock(self, tmp_path, uninterrupted):
        """kill -9 from outside, wherever the process is."""
        slow = "compute = net.loss_and_grad\nimport time\nnet.loss_and_grad = lambda *a, **k: (time.sleep(0.01), compute(*a, **k))[1]"
        for _ in range(3):
            process = start(program(every=1, before=slow), tmp_path)
            deadline = time.monotonic() + 60
            was = names(tmp_path)
            while names(tmp_path) == was and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)
            process.kill()
            process.communicate()
        assert finish(program(every=1), tmp_path) == uninterrupted

    def test_a_finished_run_is_left_as_it_is(self, tmp_path, uninterrupted):
        assert finish(program(), tmp_path) == uninterrupted
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert finish(program(), tmp_path) == uninterrupted
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def names_after(folder, steps_before_limit):
    """The files of a run that the system ends in the middle of its third checkpoint."""
    before = textwrap.dedent(
        f"""
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        replaced, real = 0, os.replace
        def replace(*a):
            global replaced
            real(*a)
            replaced += 1
            if replaced == {steps_before_limit}:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        os.replace = replace
        """
    )
    process = start(program(before=before), folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGXFSZ, err
    return names(folder)


class TestResume:
    @pytest.mark.parametrize(
        "optimiser",
        [
            lambda: SGD(lr=0.01, momentum=0.9, dampening=0.1),
            lambda: Adam(),
            lambda: RMSprop(centered=True, momentum=0.5),
            lambda: "adagrad",
        ],
    )
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_longer_run_goes_on(self, tmp_path, optimiser, dtype):
        whole, parts = net(dtype=dtype), net(dtype=dtype)
        expected = whole.fit(*data(), epochs=6, batch_size=20, optimiser=optimiser())
        fit(parts, tmp_path, optimiser=optimiser(), epochs=2)
        again = net(dtype=dtype, rng=5)
        history = fit(again, tmp_path, optimiser=optimiser(), epochs=6, resume=True)
        assert_same(again, whole)
        assert [e.loss for e in history.epochs] == [e.loss for e in expected.epochs]

    def test_options_that_a_callback_changed(self, tmp_path):
        def slower(net, epoch):
            optimisers[-1].lr *= 0.5

        runs = []
        for parts in ((6,), (2, 6)):
            folder, optimisers = tmp_path / str(len(parts)), []
            for epochs in parts:
                optimisers.append(SGD(lr=0.1, momentum=0.5))
                made = net()
                fit(made, folder, optimiser=optimisers[-1], callbacks=[slower], epochs=epochs, resume=True)
            runs.append(made)
        assert_same(*runs)

    def test_momentum_that_a_callback_switched_on(self, tmp_path):
        def faster(net, epoch):
            optimisers[-1].momentum = 0.9

        runs = []
        for parts in ((6,), (1, 2, 4, 6)):
            folder, optimisers = tmp_path / str(len(parts)), []
            for epochs in parts:
                optimisers.append(SGD(lr=0.001))
                made = net()
                fit(made, folder, optimiser=optimisers[-1], callbacks=[faster], epochs=epochs, resume=True)
            runs.append(made)
        assert_same(*runs)

    def test_a_seed_that_was_drawn_goes_on(self, tmp_path):
        whole, again = net(), net(rng=5)
        first = fit(whole, tmp_path / "whole", seed=None, epochs=5).seed
        fit(net(), tmp_path / "parts", seed=first, epochs=2)
        assert fit(again, tmp_path / "parts", seed=None, epochs=5, resume=True).seed == first
        assert_same(again, whole)

    @pytest.mark.parametrize("maximize", [False, True])
    def test_the_direction_goes_on(self, tmp_path, maximize):
        whole, again = net(), net(rng=5)
        fit(whole, tmp_path / "whole", optimiser=Adam(maximize=maximize), epochs=4)
        fit(net(), tmp_path / "parts", optimiser=Adam(maximize=maximize), epochs=2)
        with pytest.raises(CheckpointError, match=r"its optimiser is .*'maximize'"):
            fit(net(), tmp_path / "parts", optimiser=Adam(maximize=not maximize), epochs=4, resume=True)
        fit(again, tmp_path / "parts", optimiser=Adam(maximize=maximize), epochs=4, resume=True)
        assert_same(again, whole)

    def test_what_dropout_draws_goes_on(self, tmp_path):
        class Noisy(Net):
            seed, draws = 5, 0

            def loss_and_grad(self, x, y, **options):
                self.draws += 1
                noise = np.random.default_rng((self.seed, self.draws)).normal(size=x.shape)
                return super().loss_and_grad(x + noise, y, **options)

        whole, part, again = (Noisy((3, 2), loss="mse", rng=0) for _ in range(3))
        again.seed = 6
        whole.fit(*data(), epochs=4, batch_size=20)
        fit(part, tmp_path, epochs=2)
        fit(again, tmp_path, epochs=4, resume=True)
        assert_same(again, whole)

    def test_an_iterable_goes_on_at_its_batch(self, tmp_path):
        x, y = data()
        batches = [(x[i : i + 10], y[i : i + 10]) for i in range(0, 60, 10)]
        whole, cut = net(), net()
        whole.fit(batches, epochs=3)

        def breaks(count):
            for i, batch in enumerate(batches):
                if i == count:
                    raise InterruptedError
                yield batch

        with pytest.raises(InterruptedError):
            cut.fit(breaks(5), checkpoint=tmp_path, checkpoint_every=2)
        again = net(rng=9)
        again.fit(batches, epochs=3, checkpoint=tmp_path, checkpoint_every=2, resume=True)
        assert_same(again, whole)

    def test_the_last_two_are_kept(self, tmp_path):
        fit(net(), tmp_path, checkpoint_every=1)
        assert names(tmp_path) == ["checkpoint-000000000008.npz", "checkpoint-000000000009.npz"]

    def test_another_run_in_the_folder(self, tmp_path):
        fit(net(), tmp_path)
        with pytest.raises(
            CheckpointError, match=r"holds checkpoint-000000000009.npz of another run: pass resume=True"
        ):
            fit(net(), tmp_path)

    @pytest.mark.parametrize(
        "other, message",
        [
            ({"batch_size": 30}, "its batch_size is 20, and now it is 30"),
            ({"seed": 1}, "its seed is 0, and now it is 1"),
            ({"optimiser": SGD()}, "its optimiser is .*'adam'.* and now it is .*'sgd'"),
            ({"optimiser": Adam(lr=0.5)}, "its optimiser is .*0.001.* and now it is .*0.5"),
            ({"schedule": "cosine"}, r"its schedule is \[1.0, 1.0, 1.0\], and now it is \[1.0, 0"),
            ({"l2": 1.0}, "its l2 is 0.0, and now it is 1.0"),
            ({"early_stopping": 3}, "its early_stopping is 'None', and now it is 'EarlyStopping"),
        ],
    )
    def test_other_options(self, tmp_path, other, message):
        fit(net(), tmp_path)
        made, untouched = net(), net()
        with pytest.raises(CheckpointError, match=f"is of another run: {message}"):
            fit(made, tmp_path, epochs=5, resume=True, **other)
        assert_same(made, untouched)

    @pytest.mark.parametrize(
        "make, name",
        [(lambda: Net((3, 9, 2), loss="mse", bias=True), "parameters"), (lambda: net(dtype="float32"), "dtype")],
    )
    def test_another_net(self, tmp_path, make, name):
        fit(net(), tmp_path)
        with pytest.raises(CheckpointError, match=f"is of another run: its {name} is "):
            fit(make(), tmp_path, resume=True)


class TestLoadParameters:
    def test_for_a_run_with_other_options(self, tmp_path):
        whole, made = net(), net(rng=8)
        fit(whole, tmp_path)
        load_parameters(made, Folder(tmp_path).files()[0])
        assert_same(made, whole)
        fit(made, tmp_path / "other", optimiser=SGD(lr=0.1))

    @pytest.mark.parametrize("make", [lambda: Net((3, 2), loss="mse"), lambda: net(dtype="float32")])
    def test_of_another_net(self, tmp_path, make):
        fit(net(), tmp_path)
        made, untouched = make(), make()
        for p, q in zip(made.parameters, untouched.parameters):
            q.data = p.data.copy()
        with pytest.raises(CheckpointError, match=r"000000000009.npz is damaged, or no checkpoint of this net"):
            load_parameters(made, Folder(tmp_path).files()[0])
        assert_same(made, untouched)
