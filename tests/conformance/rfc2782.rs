//! RFC 2782: services with their ports.

use crate::dns::{addresses, ask, code};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use std::collections::BTreeMap;

fn targets(name: &str) -> BTreeMap<String, u16> {
    let answer = ask(name, RecordType::SRV);
    assert_eq!(code(&answer), ResponseCode::NoError);
    let of = |data: &RData| match data {
        RData::SRV(srv) => {
            assert_eq!((srv.priority, srv.weight), (0, 10));
            (srv.target.to_ascii(), srv.port)
        }
        other => panic!("{other:?}"),
    };
    answer.answers.iter().map(|record| of(&record.data)).collect()
}

#[test]
fn rfc2782_srv_lists_each_instance_with_its_port() {
    for name in ["_http._tcp.web.default.weir.internal.", "_http._tcp.web.weir.internal."] {
        let expected = [1, 2, 3].map(|n| (format!("web-{n}.web.default.weir.internal."), 8080));
        assert_eq!(targets(name), expected.into());
    }
    let expected = [1, 2, 3].map(|n| (format!("local-{n}.local.default.weir.internal."), 8000 + n));
    assert_eq!(targets("_http._tcp.local.weir.internal."), expected.into());
}

#[test]
fn rfc2782_an_instance_without_the_port_is_left_out() {
    let expected = [1, 3].map(|n| (format!("web-{n}.web.default.weir.internal."), 9000));
    assert_eq!(targets("_admin._tcp.web.weir.internal."), expected.into());
}

#[test]
fn rfc2782_the_addresses_of_the_targets_are_additional() {
    let answer = ask("_http._tcp.web.weir.internal.", RecordType::SRV);
    assert_eq!(addresses(&answer.additionals), ["10.1.0.1", "10.1.0.2", "fd00::3"]);
    for record in &answer.additionals {
        let name = record.name.to_ascii();
        let looked_up = ask(&name, record.record_type());
        assert_eq!(addresses(&looked_up.answers), [record.data.to_string()], "{name}");
    }
}

#[test]
fn rfc2782_unhealthy_instances_are_not_named() {
    assert_eq!(targets("_http._tcp.api.staging.weir.internal.").len(), 1);
    assert_eq!(addresses(&ask("api.staging.weir.internal.", RecordType::A).answers), ["10.3.0.1"]);
    let sick = ask("api-2.api.staging.weir.internal.", RecordType::A);
    assert_eq!((code(&sick), sick.answers.len()), (ResponseCode::NoError, 0));
}
