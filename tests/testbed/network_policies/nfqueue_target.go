package dataplane

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// nfqueueTarget is nftables' `queue` as the iptables target NFQUEUE. Its argument is struct xt_NFQ_info_v3:
// u16 queuenum, u16 queues_total, u16 flags (1: let packets pass while nobody reads the queue), padded to 8 bytes.
func nfqueueTarget(queue int, failOpen bool) *expr.Target {
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info[0:], uint16(queue))
	binary.NativeEndian.PutUint16(info[2:], 1)
	if failOpen {
		binary.NativeEndian.PutUint16(info[4:], 1)
	}
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}
