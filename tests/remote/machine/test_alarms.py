from auricle.remote.machine.alarms import CALM_SECONDS, REPEAT_SECONDS, Alarms


def test_an_alarm_is_told_once_and_again_when_it_lasts():
    told = []
    alarms = Alarms(told.append)
    for second in range(0, int(REPEAT_SECONDS) + 2, 2):
        alarms.update({"disk": f"full at {second}"}, second)
    assert told == ["full at 0", f"full at {int(REPEAT_SECONDS)}"]
    assert alarms.shown == [f"full at {int(REPEAT_SECONDS)}"]


def test_one_that_comes_back_is_told_again_and_one_that_flutters_is_not():
    told = []
    alarms = Alarms(told.append)
    for second, holding in ((0, True), (2, False), (4, True), (6, False), (8 + CALM_SECONDS, True)):
        alarms.update({"mirror": f"{second:g}"} if holding else {}, second)
    assert told == ["0", f"{8 + CALM_SECONDS:g}"]
    alarms.update({}, 100.0)
    assert alarms.shown == []


def test_the_newest_few_are_shown():
    alarms = Alarms(lambda sentence: None)
    for count in range(8):
        alarms.update({str(number): str(number) for number in range(count)}, float(count))
    assert alarms.shown == ["2", "3", "4", "5", "6"]
