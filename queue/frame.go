package queue

import (
	"encoding/binary"
	"hash/crc32"
)

// A segment file is a header and then frames; a frame is one group commit: a header and then records. Numbers are
// little endian.
//
//	segment header (64 bytes): magic "tierkitq", version u32, 0 u32, segment id u64, epoch u64, size u64, 0...,
//	                           CRC32C u32
//	frame header   (48 bytes): magic u32, length u32, epoch u64, base u64, durable u64, count u32, 0 u32, 0 u32,
//	                           CRC32C u32
//	record          (9 bytes): length u32, CRC32C u32, kind u8, then the payload
//
// The epoch is random for each life of a segment file and goes into every checksum, so that neither the bytes of a
// recycled file's former life nor a frame planted in a message's body pass for a frame. Every record has its own
// checksum: one damaged byte costs one record, not the batch. Records are numbered through the whole log; base is the
// number of a frame's first record, durable the number below which all was on disk when the frame was written: damage
// below a later frame's durable is corruption, other damage is a write that was cut off.
const (
	segmentMagic   = "tierkitq"
	formatVersion  = 1
	segmentHeader  = 64
	frameHeader    = 48
	recordHeader   = 9
	frameMagic     = 0x7174_6b01
	frameAlign     = 8
	kindContinues  = 0x80 // the next record belongs to the same atomic batch
	maxFrameLength = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type kind uint8

const (
	kindPublish kind = 1 + iota // a message
	kindGroups                  // all groups; first record of every segment and of every change
	kindLease                   // deliveries: one more attempt each
	kindDone                    // acknowledged, expired or purged
	kindNack                    // given back, until a time
	kindRelease                 // given back, attempt not counted
	kindDead                    // moved to the dead letters
	kindRedrive                 // back from the dead letters
	kindCopy                    // a live message from a segment about to be freed
	kindSeen                    // message IDs from a segment about to be freed
	kindNothing                 // a barrier
)

func putSegmentHeader(b []byte, id, epoch uint64, size int64) {
	clear(b[:segmentHeader])
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], formatVersion)
	le.PutUint64(b[16:], id)
	le.PutUint64(b[24:], epoch)
	le.PutUint64(b[32:], uint64(size))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
}

func parseSegmentHeader(b []byte) (id, epoch uint64, size int64, ok bool) {
	le := binary.LittleEndian
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic || le.Uint32(b[8:]) != formatVersion ||
		le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return 0, 0, 0, false
	}
	return le.Uint64(b[16:]), le.Uint64(b[24:]), int64(le.Uint64(b[32:])), true
}

type frame struct {
	length  uint32 // of the records, without padding
	count   uint32
	base    uint64
	durable uint64
}

func (f frame) put(b []byte, epoch uint64) {
	le := binary.LittleEndian
	clear(b[:frameHeader])
	le.PutUint32(b, frameMagic)
	le.PutUint32(b[4:], f.length)
	le.PutUint64(b[8:], epoch)
	le.PutUint64(b[16:], f.base)
	le.PutUint64(b[24:], f.durable)
	le.PutUint32(b[32:], f.count)
	le.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
}

func parseFrame(b []byte, epoch uint64) (frame, bool) {
	le := binary.LittleEndian
	if len(b) < frameHeader || le.Uint32(b) != frameMagic || le.Uint64(b[8:]) != epoch ||
		le.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return frame{}, false
	}
	f := frame{length: le.Uint32(b[4:]), base: le.Uint64(b[16:]), durable: le.Uint64(b[24:]), count: le.Uint32(b[32:])}
	return f, f.length <= maxFrameLength
}

func align(n int64) int64 { return (n + frameAlign - 1) &^ (frameAlign - 1) }

// sealRecords fills in the checksums of the records in buf, now that the segment, and so the epoch, is known.
func sealRecords(buf []byte, epoch uint64) {
	le := binary.LittleEndian
	for len(buf) > 0 {
		n := recordHeader + int(le.Uint32(buf))
		le.PutUint32(buf[4:], recordSum(buf[:n], epoch))
		buf = buf[n:]
	}
}

// recordSum is over epoch, length, kind and payload.
func recordSum(rec []byte, epoch uint64) uint32 {
	sum := crc32.Update(uint32(epoch)^uint32(epoch>>32), castagnoli, rec[:4])
	return crc32.Update(sum, castagnoli, rec[8:])
}

// parseRecord returns the first record of b. ok is false when there is none that passes its checksum.
func parseRecord(b []byte, epoch uint64) (k kind, continues bool, payload []byte, size int, ok bool) {
	if len(b) < recordHeader {
		return 0, false, nil, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b)) + recordHeader
	if n > int64(len(b)) || binary.LittleEndian.Uint32(b[4:]) != recordSum(b[:n], epoch) {
		return 0, false, nil, 0, false
	}
	return kind(b[8] &^ kindContinues), b[8]&kindContinues != 0, b[recordHeader:n], int(n), true
}
