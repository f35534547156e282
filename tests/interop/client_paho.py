"""One interop scenario with paho-mqtt: client_paho.py PORT SCENARIO VERSION (4 or 5).

CORELANE_SCHEME says what is spoken (mqtt, mqtts, ws or wss), CORELANE_CA who signed the node's
certificate.

Exits with 0 when every expectation held; else with a traceback. Nothing sleeps: every wait is
for a callback, with a deadline.
"""

import os
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST = "127.0.0.1"
DEADLINE_S = 30
SCHEME = os.environ.get("CORELANE_SCHEME", "mqtt")
DURABLE_COUNT = 20
SHARED_COUNT = 60
ORDERED_COUNT = 10_000
# Messages of a publisher that are open at once.
WINDOW = 50


class Client:
    """A paho client whose callbacks end up in queues."""

    def __init__(self, port, version, client_id, durable=False, will=None):
        self.version = version
        self.connects = queue.Queue()
        self.subscribes = queue.Queue()
        self.unsubscribes = queue.Queue()
        self.publishes = queue.Queue()
        self.messages = queue.Queue()
        kwargs = {} if version == 5 else {"clean_session": not durable}
        self.mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=version,
            transport="websockets" if SCHEME in ("ws", "wss") else "tcp",
            **kwargs,
        )
        if SCHEME in ("mqtts", "wss"):
            self.mqtt.tls_set(ca_certs=os.environ["CORELANE_CA"])
        self.mqtt.on_connect = lambda _c, _u, flags, code, _p: self.connects.put((flags, code))
        self.mqtt.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subscribes.put(codes)
        self.mqtt.on_unsubscribe = lambda _c, _u, mid, _codes, _p: self.unsubscribes.put(mid)
        self.mqtt.on_publish = lambda _c, _u, mid, code, _p: self.publishes.put((mid, code))
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        if will is not None:
            topic, payload, qos, retain = will
            self.mqtt.will_set(topic, payload, qos=qos, retain=retain)
        options = {}
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if durable else 0
            options = {"clean_start": not durable, "properties": properties}
        self.mqtt.connect(HOST, port, keepalive=60, **options)
        self.mqtt.loop_start()
        flags, code = self.connects.get(timeout=DEADLINE_S)
        assert not code.is_failure, f"CONNACK {code}"
        self.session_present = flags.session_present

    def subscribe(self, topic, qos, **options):
        if self.version == 5:
            result, _ = self.mqtt.subscribe(topic, options=SubscribeOptions(qos=qos, **options))
        else:
            result, _ = self.mqtt.subscribe(topic, qos)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        codes = self.subscribes.get(timeout=DEADLINE_S)
        assert [code.value for code in codes] == [qos], f"SUBACK {codes}"

    def unsubscribe(self, topic):
        self.mqtt.unsubscribe(topic)
        self.unsubscribes.get(timeout=DEADLINE_S)

    def publish(self, topic, payload, qos, retain=False, properties=None):
        sent = self.mqtt.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        sent.wait_for_publish(timeout=DEADLINE_S)
        assert sent.is_published(), f"no acknowledgement of {topic} at QoS {qos}"

    def expect(self, topic, payload, qos, retain=False):
        message = self.messages.get(timeout=DEADLINE_S)
        got = (message.topic, message.payload.decode(), message.qos, message.retain)
        assert got == (topic, payload, qos, retain), f"{got} != {(topic, payload, qos, retain)}"
        return message

    def expect_nothing_before(self, publisher, topic):
        """Nothing is queued ahead of a marker that `publisher` sends now."""
        publisher.publish(topic, "marker", 1)
        message = self.messages.get(timeout=DEADLINE_S)
        assert (message.topic, message.payload) == (topic, b"marker"), message.topic

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def vanish(self):
        """Ends the connection without a DISCONNECT packet."""
        self.mqtt.loop_stop()
        self.mqtt.socket().close()


def qos(port, version):
    subscriber = Client(port, version, "qos-subscriber")
    publisher = Client(port, version, "qos-publisher")
    for granted in (0, 1, 2):
        subscriber.subscribe(f"qos/{granted}", granted)
    for granted in (0, 1, 2):
        for published in (0, 1, 2):
            payload = f"{published} to {granted}"
            publisher.publish(f"qos/{granted}", payload, published)
            subscriber.expect(f"qos/{granted}", payload, min(published, granted))
    publisher.publish("qos/2", "x" * 200_000, 2)
    subscriber.expect("qos/2", "x" * 200_000, 2)
    publisher.publish("qos/1", "", 1)
    subscriber.expect("qos/1", "", 1)
    subscriber.close()
    publisher.close()


def retained(port, version):
    publisher = Client(port, version, "retained-publisher")
    early = Client(port, version, "retained-early")
    early.subscribe("retained/#", 2)
    for level in (0, 1, 2):
        publisher.publish(f"retained/{level}", f"first {level}", level, retain=True)
        publisher.publish(f"retained/{level}", f"value {level}", level, retain=True)
        early.expect(f"retained/{level}", f"first {level}", level)
        early.expect(f"retained/{level}", f"value {level}", level)
    late = Client(port, version, "retained-late")
    for level in (0, 1, 2):
        late.subscribe(f"retained/{level}", 2)
        late.expect(f"retained/{level}", f"value {level}", level, retain=True)
    for level in (0, 1, 2):
        publisher.publish(f"retained/{level}", "", 1, retain=True)
        early.expect(f"retained/{level}", "", 1)
        late.expect(f"retained/{level}", "", 1)
    later = Client(port, version, "retained-later")
    later.subscribe("retained/#", 2)
    later.expect_nothing_before(publisher, "retained/marker")
    for client in (publisher, early, late, later):
        client.close()


def will(port, version):
    watcher = Client(port, version, "will-watcher")
    watcher.subscribe("will/+", 2)
    for level in (0, 1, 2):
        parting = (f"will/{level}", f"gone {level}", level, False)
        dying = Client(port, version, "will-dying", will=parting)
        dying.vanish()
        watcher.expect(f"will/{level}", f"gone {level}", level)
    polite = Client(port, version, "will-polite", will=("will/polite", "never", 1, False))
    polite.close()
    watcher.expect_nothing_before(watcher, "will/marker")
    watcher.close()


def wildcards(port, version):
    publisher = Client(port, version, "wildcards-publisher")
    one = Client(port, version, "wildcards-one")
    one.subscribe("wild/+/end", 1)
    many = Client(port, version, "wildcards-many")
    many.subscribe("wild/#", 1)
    everything = Client(port, version, "wildcards-everything")
    everything.subscribe("#", 1)
    for topic in ("wild", "wild/a", "wild/a/end", "wild/a/b/end", "wild//end"):
        publisher.publish(topic, topic, 1)
        many.expect(topic, topic, 1)
        everything.expect(topic, topic, 1)
    for topic in ("wild/a/end", "wild//end"):
        one.expect(topic, topic, 1)
    publisher.publish("$wild/a", "hidden", 1)
    everything.expect_nothing_before(publisher, "wildcards/marker")
    many.unsubscribe("wild/#")
    many.subscribe("wildcards/marker", 1)
    publisher.publish("wild/a", "after", 1)
    many.expect_nothing_before(publisher, "wildcards/marker")
    for client in (publisher, one, many, everything):
        client.close()


def properties(port, version):
    if version != 5:
        return
    subscriber = Client(port, version, "properties-subscriber")
    subscriber.subscribe("properties/a", 2, noLocal=False, retainAsPublished=True)
    publisher = Client(port, version, "properties-publisher")
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("one", "1"), ("one", "2")]
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "properties/answer"
    sent.CorrelationData = b"\x00\x01"
    sent.PayloadFormatIndicator = 1
    sent.MessageExpiryInterval = 600
    publisher.publish("properties/a", "body", 2, retain=True, properties=sent)
    got = subscriber.expect("properties/a", "body", 2, retain=True).properties
    assert got.UserProperty == [("one", "1"), ("one", "2")], got
    assert got.ContentType == "text/plain", got
    assert got.ResponseTopic == "properties/answer", got
    assert got.CorrelationData == b"\x00\x01", got
    assert got.PayloadFormatIndicator == 1, got
    assert 0 < got.MessageExpiryInterval <= 600, got
    publisher.publish("properties/a", "", 1, retain=True)
    subscriber.close()
    publisher.close()


def shared(port, version):
    """Each message goes to one of three members; a member's own go to the others when it leaves."""
    members = [Client(port, version, f"shared-{number}", durable=True) for number in range(3)]
    together = queue.Queue()
    for number, member in enumerate(members):
        member.mqtt.on_message = lambda _c, _u, message, n=number: together.put((n, message))
        member.subscribe("$share/team/shared/+", 2)
    publisher = Client(port, version, "shared-publisher")

    def share(first):
        for number in range(first, first + SHARED_COUNT):
            publisher.publish(f"shared/{number % 7}", str(number), 1 + number % 2)
        got = [together.get(timeout=DEADLINE_S) for _ in range(SHARED_COUNT)]
        numbers = sorted(int(message.payload) for _, message in got)
        assert numbers == list(range(first, first + SHARED_COUNT)), numbers
        return [sum(1 for who, _ in got if who == number) for number in range(3)]

    shares = share(0)
    assert max(shares) <= 1.1 * min(shares), shares
    members[0].close()
    assert share(1000)[0] == 0
    for client in [publisher, *members[1:]]:
        client.close()


def large(port, version):
    """A payload of 1 MiB, both ways and at every QoS."""
    client = Client(port, version, "large")
    client.subscribe("large", 2)
    payload = "0123456789abcdef" * 65_536
    for level in (0, 1, 2):
        client.publish("large", payload, level)
        client.expect("large", payload, level)
    client.close()


def ordered(port, version):
    """Ten thousand messages arrive in the order in which they were sent, each once."""
    subscriber = Client(port, version, "ordered-subscriber")
    subscriber.subscribe("ordered", 2)
    publisher = Client(port, version, "ordered-publisher")
    numbers = range(ORDERED_COUNT)
    # One QoS after the other: a client has a QoS 2 message when PUBREL comes.
    for level in (1, 2):
        for number in numbers:
            publisher.mqtt.publish("ordered", str(number), qos=level)
            if number % WINDOW == WINDOW - 1:
                for _ in range(WINDOW):
                    publisher.publishes.get(timeout=DEADLINE_S)
        got = [int(subscriber.messages.get(timeout=DEADLINE_S).payload) for _ in numbers]
        assert got == list(numbers), f"QoS {level}"
    subscriber.close()
    publisher.close()


def durable_before(port, version):
    """Leaves a session with queued messages and a retained one behind."""
    away = Client(port, version, "durable-away", durable=True)
    assert not away.session_present
    away.subscribe("durable/exact", 2)
    away.subscribe("durable/wild/+", 1)
    away.close()
    publisher = Client(port, version, "durable-publisher")
    for number in range(DURABLE_COUNT):
        publisher.publish("durable/exact", str(number), 2)
        publisher.publish(f"durable/wild/{number}", str(number), 1)
    publisher.publish("durable/kept", "kept", 1, retain=True)
    publisher.close()


def durable_after(port, version):
    """After `kill -9` and a start: everything that was acknowledged is there, QoS 2 once."""
    away = Client(port, version, "durable-away", durable=True)
    assert away.session_present, "the session is gone"
    exact, wild = [], []
    while len(exact) < DURABLE_COUNT or len(set(wild)) < DURABLE_COUNT:
        message = away.messages.get(timeout=DEADLINE_S)
        if message.topic == "durable/exact":
            assert message.qos == 2
            exact.append(int(message.payload))
        else:
            assert message.qos == 1
            wild.append(int(message.payload))
    away.subscribe("durable/kept", 1)
    away.expect("durable/kept", "kept", 1, retain=True)
    assert exact == list(range(DURABLE_COUNT)), exact
    assert sorted(set(wild)) == list(range(DURABLE_COUNT)), wild
    # The subscriptions live on, too.
    away.publish("durable/exact", "new", 2)
    away.expect("durable/exact", "new", 2)
    away.close()


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

if __name__ == "__main__":
    port, name, version = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    {scenario.__name__: scenario for scenario in SCENARIOS}[name](port, version)
