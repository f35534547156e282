// One interop scenario with MQTT.js: client_mqttjs.mjs PORT SCENARIO VERSION (4 or 5).
//
// CORELANE_SCHEME says what is spoken (mqtt, mqtts, ws or wss), CORELANE_CA who signed the node's
// certificate.
//
// Exits with 0 when every expectation held; else with the failed assertion. Nothing sleeps: every
// wait is for an event, with a deadline.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const scheme = process.env.CORELANE_SCHEME ?? "mqtt";
const ca = process.env.CORELANE_CA && readFileSync(process.env.CORELANE_CA);
const path = scheme.startsWith("ws") ? "/mqtt" : "";

const DEADLINE_MS = 30_000;
const DURABLE_COUNT = 20;
const ORDERED_COUNT = 10_000;
// Messages of a publisher that are open at once.
const WINDOW = 50;
const [port, scenario, version] = [process.argv[2], process.argv[3], Number(process.argv[4])];

// An MQTT.js client whose messages wait in a queue until they are asked for.
class Client {
  static async connect(clientId, { durable = false, will } = {}) {
    const client = new Client();
    client.messages = [];
    client.waiting = [];
    client.mqtt = mqtt.connect(`${scheme}://127.0.0.1:${port}${path}`, {
      ca,
      clientId,
      will,
      clean: !durable,
      reconnectPeriod: 0,
      protocolVersion: version,
      properties: version === 5 ? { sessionExpiryInterval: durable ? 3600 : 0 } : undefined,
    });
    client.mqtt.on("message", (topic, payload, packet) => {
      const message = { ...packet, topic, payload: payload.toString() };
      const waiter = client.waiting.shift();
      if (waiter) waiter(message);
      else client.messages.push(message);
    });
    const connack = await new Promise((resolve, reject) => {
      client.mqtt.once("connect", resolve);
      client.mqtt.once("error", reject);
    });
    client.sessionPresent = connack.sessionPresent;
    return client;
  }

  async subscribe(topic, qos, options = {}) {
    const granted = await this.mqtt.subscribeAsync(topic, { qos, ...options });
    assert.deepEqual(granted.map((grant) => grant.qos), [qos]);
  }

  publish(topic, payload, qos, options = {}) {
    return this.mqtt.publishAsync(topic, payload, { qos, ...options });
  }

  next() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  async expect(topic, payload, qos, retain = false) {
    const got = await this.next();
    assert.deepEqual([got.topic, got.payload, got.qos, got.retain], [topic, payload, qos, retain]);
    return got;
  }

  // Nothing is queued ahead of a marker that `publisher` sends now.
  async expectNothingBefore(publisher, topic) {
    await publisher.publish(topic, "marker", 1);
    await this.expect(topic, "marker", 1);
  }

  close() {
    return this.mqtt.endAsync();
  }

  // Ends the connection without a DISCONNECT packet.
  vanish() {
    this.mqtt.stream.destroy();
  }
}

const closeAll = (...clients) => Promise.all(clients.map((client) => client.close()));

async function qos() {
  const subscriber = await Client.connect("js-qos-subscriber");
  const publisher = await Client.connect("js-qos-publisher");
  for (const granted of [0, 1, 2]) await subscriber.subscribe(`js/qos/${granted}`, granted);
  for (const granted of [0, 1, 2]) {
    for (const published of [0, 1, 2]) {
      const payload = `${published} to ${granted}`;
      await publisher.publish(`js/qos/${granted}`, payload, published);
      await subscriber.expect(`js/qos/${granted}`, payload, Math.min(published, granted));
    }
  }
  const large = "x".repeat(200_000);
  await publisher.publish("js/qos/2", large, 2);
  await subscriber.expect("js/qos/2", large, 2);
  await closeAll(subscriber, publisher);
}

async function retained() {
  const publisher = await Client.connect("js-retained-publisher");
  const early = await Client.connect("js-retained-early");
  await early.subscribe("js/retained/#", 2);
  for (const level of [0, 1, 2]) {
    await publisher.publish(`js/retained/${level}`, `value ${level}`, level, { retain: true });
    await early.expect(`js/retained/${level}`, `value ${level}`, level);
  }
  const late = await Client.connect("js-retained-late");
  for (const level of [0, 1, 2]) {
    await late.subscribe(`js/retained/${level}`, 2);
    await late.expect(`js/retained/${level}`, `value ${level}`, level, true);
    await publisher.publish(`js/retained/${level}`, "", 1, { retain: true });
    await early.expect(`js/retained/${level}`, "", 1);
    await late.expect(`js/retained/${level}`, "", 1);
  }
  const later = await Client.connect("js-retained-later");
  await later.subscribe("js/retained/#", 2);
  await later.expectNothingBefore(publisher, "js/retained/marker");
  await closeAll(publisher, early, late, later);
}

async function will() {
  const watcher = await Client.connect("js-will-watcher");
  await watcher.subscribe("js/will/+", 2);
  for (const level of [0, 1, 2]) {
    const parting = { topic: `js/will/${level}`, payload: `gone ${level}`, qos: level };
    const dying = await Client.connect("js-will-dying", { will: parting });
    dying.vanish();
    await watcher.expect(`js/will/${level}`, `gone ${level}`, level);
  }
  const never = { topic: "js/will/polite", payload: "never", qos: 1 };
  const polite = await Client.connect("js-will-polite", { will: never });
  await polite.close();
  await watcher.expectNothingBefore(watcher, "js/will/marker");
  await watcher.close();
}

async function wildcards() {
  const publisher = await Client.connect("js-wild-publisher");
  const one = await Client.connect("js-wild-one");
  await one.subscribe("js/wild/+/end", 1);
  const many = await Client.connect("js-wild-many");
  await many.subscribe("js/wild/#", 1);
  for (const topic of ["js/wild", "js/wild/a", "js/wild/a/end", "js/wild/a/b/end"]) {
    await publisher.publish(topic, topic, 1);
    await many.expect(topic, topic, 1);
  }
  await one.expect("js/wild/a/end", "js/wild/a/end", 1);
  await many.mqtt.unsubscribeAsync("js/wild/#");
  await many.subscribe("js/marker", 1);
  await publisher.publish("js/wild/a", "after", 1);
  await many.expectNothingBefore(publisher, "js/marker");
  await closeAll(publisher, one, many);
}

async function properties() {
  if (version !== 5) return;
  const subscriber = await Client.connect("js-properties-subscriber");
  await subscriber.subscribe("js/properties", 2, { properties: { subscriptionIdentifier: 7 } });
  const publisher = await Client.connect("js-properties-publisher");
  await publisher.publish("js/properties", "body", 2, {
    properties: {
      contentType: "text/plain",
      messageExpiryInterval: 600,
      payloadFormatIndicator: true,
      responseTopic: "js/answer",
      correlationData: Buffer.from([0, 1]),
      userProperties: { one: ["1", "2"] },
    },
  });
  const got = await subscriber.expect("js/properties", "body", 2);
  assert.equal(got.properties.contentType, "text/plain");
  assert.equal(got.properties.payloadFormatIndicator, true);
  const left = got.properties.messageExpiryInterval;
  assert.ok(left > 0 && left <= 600, `${left}`);
  assert.equal(got.properties.responseTopic, "js/answer");
  assert.deepEqual(got.properties.correlationData, Buffer.from([0, 1]));
  assert.deepEqual(got.properties.userProperties.one, ["1", "2"]);
  assert.equal(got.properties.subscriptionIdentifier, 7);
  await closeAll(subscriber, publisher);
}

// Each message goes to one of three members; to the others when one has left.
async function shared() {
  const members = [];
  for (const number of [0, 1, 2]) {
    const member = await Client.connect(`js-shared-${number}`, { durable: true });
    await member.subscribe("$share/team/js/shared/+", 2);
    members.push(member);
  }
  const publisher = await Client.connect("js-shared-publisher");
  const share = async (first, who) => {
    const numbers = Array.from({ length: 60 }, (_, number) => first + number);
    for (const number of numbers) {
      await publisher.publish(`js/shared/${number % 7}`, `${number}`, 1 + (number % 2));
    }
    const got = [];
    while (who.reduce((sum, member) => sum + member.messages.length, 0) < numbers.length) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const member of who) got.push(...member.messages.splice(0));
    const payloads = got.map((message) => Number(message.payload)).sort((a, b) => a - b);
    assert.deepEqual(payloads, numbers);
  };
  await share(0, members);
  await members[0].close();
  await share(1000, members.slice(1));
  assert.deepEqual(members[0].messages, []);
  await closeAll(publisher, ...members.slice(1));
}

// A payload of 1 MiB, both ways and at every QoS.
async function large() {
  const client = await Client.connect("js-large");
  await client.subscribe("js/large", 2);
  const payload = "0123456789abcdef".repeat(65_536);
  for (const level of [0, 1, 2]) {
    await client.publish("js/large", payload, level);
    await client.expect("js/large", payload, level);
  }
  await client.close();
}

// Ten thousand messages arrive in the order in which they were sent, each once.
async function ordered() {
  const subscriber = await Client.connect("js-ordered-subscriber");
  await subscriber.subscribe("js/ordered", 2);
  const publisher = await Client.connect("js-ordered-publisher");
  // One QoS after the other: a client has a QoS 2 message when PUBREL comes.
  for (const level of [1, 2]) {
    for (let first = 0; first < ORDERED_COUNT; first += WINDOW) {
      const numbers = Array.from({ length: WINDOW }, (_, index) => first + index);
      await Promise.all(numbers.map((n) => publisher.publish("js/ordered", `${n}`, level)));
    }
    for (let number = 0; number < ORDERED_COUNT; number += 1) {
      assert.equal((await subscriber.next()).payload, `${number}`);
    }
  }
  await closeAll(subscriber, publisher);
}

// Leaves a session with queued messages and a retained one behind.
async function durable_before() {
  const away = await Client.connect("js-durable-away", { durable: true });
  assert.equal(away.sessionPresent, false);
  await away.subscribe("js/durable/exact", 2);
  await away.subscribe("js/durable/wild/+", 1);
  await away.close();
  const publisher = await Client.connect("js-durable-publisher");
  for (let number = 0; number < DURABLE_COUNT; number += 1) {
    await publisher.publish("js/durable/exact", `${number}`, 2);
    await publisher.publish(`js/durable/wild/${number}`, `${number}`, 1);
  }
  await publisher.publish("js/durable/kept", "kept", 1, { retain: true });
  await publisher.close();
}

// After `kill -9` and a start: everything that was acknowledged is there, QoS 2 once.
async function durable_after() {
  const away = await Client.connect("js-durable-away", { durable: true });
  assert.equal(away.sessionPresent, true, "the session is gone");
  const exact = [];
  const wild = new Set();
  while (exact.length < DURABLE_COUNT || wild.size < DURABLE_COUNT) {
    const got = await away.next();
    if (got.topic === "js/durable/exact") exact.push(Number(got.payload));
    else wild.add(Number(got.payload));
  }
  await away.subscribe("js/durable/kept", 1);
  await away.expect("js/durable/kept", "kept", 1, true);
  assert.deepEqual(exact, [...Array(DURABLE_COUNT).keys()]);
  await away.publish("js/durable/exact", "new", 2);
  await away.expect("js/durable/exact", "new", 2);
  await away.close();
}

const scenarios = {
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
};
setTimeout(() => {
  console.error(`${scenario}: no progress within ${DEADLINE_MS} ms`);
  process.exit(1);
}, DEADLINE_MS).unref();
await scenarios[scenario]();
process.exit(0);
