//! An entry of the map, as a value: read and written by the table that programs are made of.

use asm::Size;
use sfunnel::flow::value;
use sfunnel::packet::Field;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    pub noted: u64,
    pub out: u64,
    pub inwards: u64,
    pub asked_out: u64,
    pub asked_in: u64,
    pub interface: u32,
    pub pod: u32,
    pub pod_mac: [u8; 6],
    pub gateway_mac: [u8; 6],
    pub end_out: u32,
    pub end_in: u32,
    pub ahead_out: u32,
    pub ahead_in: u32,
    pub acked_out: u32,
    pub acked_in: u32,
    pub real_out: bool,
    pub real_in: bool,
    pub probed_out: bool,
    pub probed_in: bool,
    pub closing: bool,
    pub opener: u8,
    pub scale_out: u8,
    pub scale_in: u8,
    pub other: u32,
    pub other_port: u16,
    pub is_alias: bool,
}

type Bytes = [u8; 104];

fn get(bytes: &Bytes, field: Field) -> u64 {
    let at = usize::from(field.offset.unsigned_abs());
    let mut word = [0; 8];
    let size = usize::from(field.size.bytes());
    word[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(word)
}

fn put(bytes: &mut Bytes, field: Field, value: u64) {
    let at = usize::from(field.offset.unsigned_abs());
    let size = usize::from(field.size.bytes());
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn mac(bytes: &Bytes, fields: [Field; 3]) -> [u8; 6] {
    let mut mac = [0; 6];
    for (part, field) in mac.chunks_mut(2).zip(fields) {
        assert_eq!(field.size, Size::H);
        part.copy_from_slice(&get(bytes, field).to_le_bytes()[..2]);
    }
    mac
}

impl Flow {
    pub fn read(bytes: &Bytes) -> Flow {
        let word = |field| u32::try_from(get(bytes, field)).expect("four bytes");
        let byte = |field| u8::try_from(get(bytes, field)).expect("a byte");
        let truth = |field| {
            let value = get(bytes, field);
            assert!(value < 2, "{} is {value}", field.name);
            value == 1
        };
        Flow {
            noted: get(bytes, value::NOTED),
            out: get(bytes, value::OUT),
            inwards: get(bytes, value::IN),
            asked_out: get(bytes, value::ASKED_OUT),
            asked_in: get(bytes, value::ASKED_IN),
            interface: word(value::INTERFACE),
            pod: word(value::POD),
            pod_mac: mac(bytes, value::POD_MAC),
            gateway_mac: mac(bytes, value::GATEWAY_MAC),
            end_out: word(value::END_OUT),
            end_in: word(value::END_IN),
            ahead_out: word(value::AHEAD_OUT),
            ahead_in: word(value::AHEAD_IN),
            acked_out: word(value::ACKED_OUT),
            acked_in: word(value::ACKED_IN),
            real_out: truth(value::REAL_OUT),
            real_in: truth(value::REAL_IN),
            probed_out: truth(value::PROBED_OUT),
            probed_in: truth(value::PROBED_IN),
            closing: truth(value::CLOSING),
            opener: byte(value::OPENER),
            scale_out: byte(value::SCALE_OUT),
            scale_in: byte(value::SCALE_IN),
            other: word(value::OTHER),
            other_port: u16::try_from(get(bytes, value::OTHER_PORT)).expect("two bytes"),
            is_alias: truth(value::IS_ALIAS),
        }
    }

    pub fn bytes(&self) -> Bytes {
        let mut bytes = [0; 104];
        for (field, value) in [
            (value::NOTED, self.noted),
            (value::OUT, self.out),
            (value::IN, self.inwards),
            (value::ASKED_OUT, self.asked_out),
            (value::ASKED_IN, self.asked_in),
            (value::INTERFACE, self.interface.into()),
            (value::POD, self.pod.into()),
            (value::END_OUT, self.end_out.into()),
            (value::END_IN, self.end_in.into()),
            (value::AHEAD_OUT, self.ahead_out.into()),
            (value::AHEAD_IN, self.ahead_in.into()),
            (value::ACKED_OUT, self.acked_out.into()),
            (value::ACKED_IN, self.acked_in.into()),
            (value::REAL_OUT, self.real_out.into()),
            (value::REAL_IN, self.real_in.into()),
            (value::PROBED_OUT, self.probed_out.into()),
            (value::PROBED_IN, self.probed_in.into()),
            (value::CLOSING, self.closing.into()),
            (value::OPENER, self.opener.into()),
            (value::SCALE_OUT, self.scale_out.into()),
            (value::SCALE_IN, self.scale_in.into()),
            (value::OTHER, self.other.into()),
            (value::OTHER_PORT, self.other_port.into()),
            (value::IS_ALIAS, self.is_alias.into()),
        ] {
            put(&mut bytes, field, value);
        }
        for (mac, fields) in [(self.pod_mac, value::POD_MAC), (self.gateway_mac, value::GATEWAY_MAC)] {
            for (part, field) in mac.chunks(2).zip(fields) {
                put(&mut bytes, field, u64::from(u16::from_le_bytes([part[0], part[1]])));
            }
        }
        bytes
    }
}
