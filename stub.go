package main

func slabMaintenancePause()       {}
func slabMaintenanceResume()      {}
func startSlabMaintenanceThread() {}

type reassignResultType int

const (
	reassignOk reassignResultType = iota
	reassignRunning
	reassignBadclass
	reassignNospare
	reassignSrcDstSame
)
const slabsReassignAllowEvictions = 1

func slabsReassign(src, dst, flags int) reassignResultType { return reassignNospare }
