//! What a client may send, as a server decodes it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    corelane_fuzz::mqtt::decode_stream(input, engine_mqtt::Direction::FromClient);
});
