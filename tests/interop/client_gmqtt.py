"""One interop scenario with gmqtt: client_gmqtt.py PORT SCENARIO VERSION (4 or 5).

gmqtt has a codec and a session of its own, on asyncio; it shares no code with paho.

Exits with 0 when every expectation held; else with a traceback. Nothing sleeps: every wait is
for an event, with a deadline.
"""

import asyncio
import sys

import gmqtt
from gmqtt.storage import PersistentStorage

HOST = "127.0.0.1"
DEADLINE_S = 30
DURABLE_COUNT = 20
SHARED_COUNT = 60
ORDERED_COUNT = 10_000
# Messages of a publisher that are open at once; gmqtt fails above the node's Receive Maximum.
WINDOW = 50


async def within(awaitable):
    return await asyncio.wait_for(awaitable, DEADLINE_S)


class Client:
    """A gmqtt client whose messages wait in a queue until they are asked for."""

    @classmethod
    async def connect(cls, port, version, client_id, durable=False, will=None):
        self = cls()
        self.messages = asyncio.Queue()
        self.grants = asyncio.Queue()
        self.flags = asyncio.Queue()
        # What is sent and not acknowledged: empty when all is.
        self.open = PersistentStorage()
        options = {"session_expiry_interval": 3600 if durable else 0} if version == 5 else {}
        self.mqtt = gmqtt.Client(
            client_id,
            clean_session=not durable,
            will_message=will,
            persistent_storage=self.open,
            **options,
        )
        self.mqtt.on_connect = lambda _c, flags, _rc, _p: self.flags.put_nowait(flags)
        self.mqtt.on_subscribe = lambda _c, _mid, codes, _p: self.grants.put_nowait(codes)
        self.mqtt.on_message = lambda _c, *message: self.messages.put_nowait(message)
        await within(self.mqtt.connect(HOST, port, version=version))
        self.session_present = bool(await within(self.flags.get()) & 1)
        return self

    async def subscribe(self, topic, qos, **options):
        self.mqtt.subscribe(topic, qos=qos, **options)
        codes = await within(self.grants.get())
        assert list(codes) == [qos], f"SUBACK {codes}"

    async def publish(self, topic, payload, qos, **options):
        """Publishes a message, after whose whole exchange it returns."""
        self.mqtt.publish(topic, payload, qos=qos, **options)
        await within(self.open.wait_empty())

    async def expect(self, topic, payload, qos, retain=0):
        got_topic, got_payload, got_qos, properties = await within(self.messages.get())
        got = (got_topic, got_payload.decode(), got_qos, properties["retain"])
        assert got == (topic, payload, qos, retain), f"{got} != {(topic, payload, qos, retain)}"
        return properties

    async def close(self):
        await within(self.mqtt.disconnect())

    def vanish(self):
        """Ends the connection without a DISCONNECT packet, and does not come back."""
        self.mqtt._is_active = False
        self.mqtt._connection._transport.abort()


async def qos(connect):
    subscriber = await connect("g-qos-subscriber")
    publisher = await connect("g-qos-publisher")
    for granted in (0, 1, 2):
        await subscriber.subscribe(f"g/qos/{granted}", granted)
    for granted in (0, 1, 2):
        for published in (0, 1, 2):
            payload = f"{published} to {granted}"
            await publisher.publish(f"g/qos/{granted}", payload, published)
            await subscriber.expect(f"g/qos/{granted}", payload, min(published, granted))
    await subscriber.close()
    await publisher.close()


async def retained(connect):
    publisher = await connect("g-retained-publisher")
    early = await connect("g-retained-early")
    await early.subscribe("g/retained/#", 2)
    for level in (0, 1, 2):
        topic, payload = f"g/retained/{level}", f"value {level}"
        await publisher.publish(topic, payload, level, retain=True)
        await early.expect(topic, payload, level)
        late = await connect(f"g-retained-late-{level}")
        await late.subscribe(topic, 2)
        await late.expect(topic, payload, level, retain=1)
        await publisher.publish(topic, "", 1, retain=True)
        await early.expect(topic, "", 1)
        await late.close()
    later = await connect("g-retained-later")
    await later.subscribe("g/retained/#", 2)
    await publisher.publish("g/retained/marker", "marker", 1)
    await later.expect("g/retained/marker", "marker", 1)


async def will(connect):
    watcher = await connect("g-will-watcher")
    await watcher.subscribe("g/will/+", 2)
    for level in (0, 1, 2):
        topic, payload = f"g/will/{level}", f"gone {level}"
        parting = gmqtt.Message(topic, payload, qos=level)
        dying = await connect("g-will-dying", will=parting)
        dying.vanish()
        await watcher.expect(topic, payload, level)
    polite = await connect("g-will-polite", will=gmqtt.Message("g/will/polite", "never", qos=1))
    await polite.close()
    await watcher.publish("g/will/marker", "marker", 1)
    await watcher.expect("g/will/marker", "marker", 1)


async def wildcards(connect):
    publisher = await connect("g-wild-publisher")
    one = await connect("g-wild-one")
    await one.subscribe("g/wild/+/end", 1)
    many = await connect("g-wild-many")
    await many.subscribe("g/wild/#", 1)
    for topic in ("g/wild", "g/wild/a", "g/wild/a/end", "g/wild/a/b/end", "g/wild//end"):
        await publisher.publish(topic, topic, 1)
        await many.expect(topic, topic, 1)
    for topic in ("g/wild/a/end", "g/wild//end"):
        await one.expect(topic, topic, 1)


async def properties(connect):
    """MQTT 5 only."""
    subscriber = await connect("g-properties-subscriber")
    await subscriber.subscribe("g/properties", 2, subscription_identifier=7)
    publisher = await connect("g-properties-publisher")
    await publisher.publish(
        "g/properties",
        "body",
        2,
        content_type="text/plain",
        response_topic="g/answer",
        correlation_data=b"\x00\x01",
        message_expiry_interval=600,
        payload_format_id=1,
        user_property=[("one", "1"), ("one", "2")],
    )
    got = await subscriber.expect("g/properties", "body", 2)
    assert got["content_type"] == ["text/plain"], got
    assert got["response_topic"] == ["g/answer"], got
    assert got["correlation_data"] == [b"\x00\x01"], got
    assert got["payload_format_id"] == [1], got
    assert got["subscription_identifier"] == [7], got
    assert got["user_property"] == [("one", "1"), ("one", "2")], got
    assert 0 < got["message_expiry_interval"][0] <= 600, got


async def shared(connect):
    """Each message goes to one of three members, to the others when one has left."""
    members = [await connect(f"g-shared-{number}", durable=True) for number in range(3)]
    together = asyncio.Queue()
    for number, member in enumerate(members):
        member.mqtt.on_message = lambda _c, *got, n=number: together.put_nowait((n, got[1]))
        await member.subscribe("$share/team/g/shared/+", 2)
    publisher = await connect("g-shared-publisher")

    async def share(first):
        numbers = range(first, first + SHARED_COUNT)
        for number in numbers:
            await publisher.publish(f"g/shared/{number % 7}", str(number), 1 + number % 2)
        got = [await within(together.get()) for _ in numbers]
        assert sorted(int(payload) for _, payload in got) == list(numbers), got
        return [sum(1 for who, _ in got if who == number) for number in range(3)]

    shares = await share(0)
    assert max(shares) <= 1.1 * min(shares), shares
    await members[0].close()
    assert (await share(1000))[0] == 0


async def large(connect):
    """A payload of 1 MiB, both ways and at every QoS."""
    client = await connect("g-large")
    await client.subscribe("g/large", 2)
    payload = "0123456789abcdef" * 65_536
    for level in (0, 1, 2):
        await client.publish("g/large", payload, level)
        await client.expect("g/large", payload, level)


async def ordered(connect):
    """Ten thousand messages arrive in the order in which they were sent, each once."""
    subscriber = await connect("g-ordered-subscriber")
    await subscriber.subscribe("g/ordered", 2)
    publisher = await connect("g-ordered-publisher")
    numbers = range(ORDERED_COUNT)
    for level in (1, 2):
        for number in numbers:
            publisher.mqtt.publish("g/ordered", str(number), qos=level)
            if number % WINDOW == WINDOW - 1:
                await within(publisher.open.wait_empty())
        got = [int((await within(subscriber.messages.get()))[1]) for _ in numbers]
        assert got == list(numbers), f"QoS {level}"


async def durable_before(connect):
    """Leaves a session with queued messages and a retained one behind."""
    away = await connect("g-durable-away", durable=True)
    assert not away.session_present
    await away.subscribe("g/durable/exact", 2)
    await away.subscribe("g/durable/wild/+", 1)
    await away.close()
    publisher = await connect("g-durable-publisher")
    for number in range(DURABLE_COUNT):
        await publisher.publish("g/durable/exact", str(number), 2)
        await publisher.publish(f"g/durable/wild/{number}", str(number), 1)
    await publisher.publish("g/durable/kept", "kept", 1, retain=True)


async def durable_after(connect):
    """After `kill -9` and a start: everything that was acknowledged is there, QoS 2 once."""
    away = await connect("g-durable-away", durable=True)
    assert away.session_present, "the session is gone"
    exact, wild = [], set()
    while len(exact) < DURABLE_COUNT or len(wild) < DURABLE_COUNT:
        topic, payload, _, _ = await within(away.messages.get())
        if topic == "g/durable/exact":
            exact.append(int(payload))
        else:
            wild.add(int(payload))
    assert exact == list(range(DURABLE_COUNT)), exact
    assert wild == set(range(DURABLE_COUNT)), wild
    await away.subscribe("g/durable/kept", 1)
    await away.expect("g/durable/kept", "kept", 1, retain=1)
    await away.publish("g/durable/exact", "new", 2)
    await away.expect("g/durable/exact", "new", 2)


SCENARIOS = [
    qos,
    retained,
    will,
    wildcards,
    properties,
    shared,
    large,
    ordered,
    durable_before,
    durable_after,
]


async def main(port, name, version):
    if name == "properties" and version < 5:
        return

    def connect(client_id, **options):
        return Client.connect(port, version, client_id, **options)

    await {scenario.__name__: scenario for scenario in SCENARIOS}[name](connect)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
